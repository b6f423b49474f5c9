"""Every config at full size: its sources are opened, and `--dry_run` builds its networks."""

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import train
from datamodules.config import OODSets
from datamodules.ood import OODDataModule
from diffguard.cost import dry_run
from diffguard_cli.classifier_model import classifier_spec
from diffguard_cli.detector_options import instantiate
from diffguard_cli.parser import parse
from diffguard_cli.shipped_configs import shipped_configs
from tests.helpers.pages import PAGE
from tests.helpers.published import published_spec
from tests.helpers.stand_in_data import write_stand_ins

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
# Classes of the data sets whose config has no names.
CLASSES = {"digits_0_5": 6, "mnist": 10, "mine": 2, "imagenet": 1000, "imagenet200": 200}


def content(path):
    """The sections and keys of a config file."""
    return yaml.safe_load(path.read_text())


def merged(paths):
    """The sections of several config files, a later one on top."""
    result = {}
    for path in paths:
        for key, value in content(path).items():
            is_section = isinstance(value, dict)
            result[key] = {**result.get(key, {}), **value} if is_section else value
    return result


def command(path):
    """The arguments of `train.py` in a config's header; the config alone if there are none."""
    header = "\n".join(line[1:] for line in path.read_text().splitlines() if line[:1] == "#")
    match = re.search(r"python train\.py ((?:.*\\\n)*.*)", header)
    words = shlex.split(match[1].replace("\\\n", "")) if match else ["--config", str(path)]
    assert any(Path(word).stem == path.stem for word in words)
    if path.stem == "cifar10_full":  # its command is that of an evaluation
        words = ["--config", "configs/cifar10.yaml", "--config", "configs/cifar10_full.yaml"]
    names = shipped_configs()
    return [
        str(FOLDER / f"{Path(word).stem}.yaml") if "configs/" in word or word in names else word
        for word in words
    ]


@cache
def parsed(path):
    """The config of a config's command, typed."""
    parser = train.build_parser()
    return instantiate(parser, parse(parser, command(path)))


def full_size_cost(config):
    """The cost of the detector that a config calibrates."""
    names = config.data.class_names or [f"class {k}" for k in range(CLASSES[config.data.name])]
    data = SimpleNamespace(
        class_names=names,
        num_classes=len(names),
        image_size=config.data.image_size,
        channels=config.data.channels,
    )
    diffusion = published_spec(config.diffusion, data)
    return dry_run(classifier_spec(config.classifier, data), diffusion, config.detector)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dry_run_of_a_config_builds_its_networks(path, monkeypatch, capsys):
    # A model that is downloaded has its published config here.
    monkeypatch.setattr("diffguard_cli.config_check.check_name", lambda name, key: None)
    monkeypatch.setattr(
        "diffguard_cli.planned_cost.planned_spec",
        lambda config, data, same_classes: published_spec(config, data),
    )
    words = command(path)
    data = merged([Path(word) for word in words if word.endswith(".yaml")])["data"]
    if not data.get("class_names"):
        names = [f"class {k}" for k in range(CLASSES[data["name"]])]
        words += ["--data.class_names", json.dumps(names)]
    assert train.main([*words, "--dry_run"]) == 0
    match = re.search(r"network passes per image: (\d+)(?: to (\d+))?\n$", capsys.readouterr().out)
    assert 0 < int(match[1]) <= int(match[2] or match[1]) < 1000


# Configs with the data of another one are left out.
WITH_DATA = [path for path in CONFIGS if {"id", "ood"} & set(content(path).get("data", {}))]


@pytest.mark.parametrize("path", WITH_DATA, ids=lambda path: path.stem)
def test_the_sources_of_a_config_are_opened(path, tmp_path, monkeypatch):
    config = parsed(path).data
    if sets := content(path)["data"].get("ood"):
        assert config.ood == OODSets(**sets)  # replaces the sets of the config below
    names = config.class_names or [f"class {k}" for k in range(CLASSES[config.name])]
    write_stand_ins(config, names, tmp_path, monkeypatch)
    data = OODDataModule(replace(config, root=str(tmp_path), class_names=names, download=False))
    expected = {
        "train": [f"{config.name}_train"],
        "validation": [f"{config.name}_validation", *(config.ood_validation or {})],
        "test": [config.name, *config.ood.near, *config.ood.far],
    }
    for part, sets in expected.items():
        opened = data.sets.of_part(part)
        assert [images.name for images in opened] == sets
        for images in opened:
            image = data.prepare(images[0]["image"])
            assert image.shape == (config.channels, config.image_size, config.image_size)


def test_the_table_of_models_has_the_passes_of_the_configs():
    rows = {"imagenet": "DiT-XL-2-256", "stable_diffusion": "stable-diffusion-v1-5"}
    rows |= {"paper_gdm": "256x256_diffusion_uncond", "paper_ldm": "cin256-v2"}
    for name, model in rows.items():
        cost = full_size_cost(parsed(FOLDER / f"{name}.yaml"))
        few, most = cost.fewest_passes, cost.most_passes
        passes = str(most) if few == most else f"{few} to {most}"
        parameters = f"{round(sum(part.parameters for part in cost.parts[1:]) / 1e6)} million"
        assert re.search(rf"^\|.*{model}.*\| {parameters} \|.*\| {passes} \|", PAGE, re.MULTILINE)
