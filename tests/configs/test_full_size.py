"""Every config at full size: its networks are built without memory, and its passes are counted."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import train
from datamodules.config import OODSets
from diffguard.cost import dry_run
from diffguard_cli.classifier_model import classifier_spec
from diffguard_cli.detector_options import instantiate
from diffguard_cli.parser import parse
from tests.helpers.pages import PAGE
from tests.helpers.published import published_spec

FOLDER = Path(__file__).parents[2] / "configs"
# `cifar10_full` is for an evaluation.
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "cifar10_full"]
# Classes of the data sets whose config has no names.
CLASSES = {"digits_0_5": 6, "mnist": 10, "mine": 2, "imagenet": 1000, "imagenet200": 200}


def command(path):
    """The arguments of `train.py` in a config's header; the config alone if there are none."""
    header = "\n".join(line[1:] for line in path.read_text().splitlines() if line[:1] == "#")
    match = re.search(r"python train\.py ((?:.*\\\n)*.*)", header)
    words = shlex.split(match[1].replace("\\\n", "")) if match else ["--config", str(path)]
    assert any(Path(word).name == path.name for word in words)
    return [str(FOLDER / Path(word).name) if "configs/" in word else word for word in words]


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
def test_the_command_of_a_config_builds_its_networks(path):
    config = parsed(path)
    cost = full_size_cost(config)
    assert 0 < cost.fewest_passes <= cost.most_passes < 1000
    if sets := yaml.safe_load(path.read_text()).get("data", {}).get("ood"):
        assert config.data.ood == OODSets(**sets)  # replaces the sets of the config below


def test_the_table_of_models_has_the_passes_of_the_configs():
    rows = {"imagenet": "DiT-XL-2-256", "stable_diffusion": "stable-diffusion-v1-5"}
    rows |= {"paper_gdm": "256x256_diffusion_uncond", "paper_ldm": "cin256-v2"}
    for name, model in rows.items():
        cost = full_size_cost(parsed(FOLDER / f"{name}.yaml"))
        few, most = cost.fewest_passes, cost.most_passes
        passes = str(most) if few == most else f"{few} to {most}"
        parameters = f"{round(sum(part.parameters for part in cost.parts[1:]) / 1e6)} million"
        assert re.search(rf"^\|.*{model}.*\| {parameters} \|.*\| {passes} \|", PAGE, re.MULTILINE)
