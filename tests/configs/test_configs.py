"""Every config parses, and its pipeline runs with tiny data and networks."""

import json
from pathlib import Path

import pytest
import yaml

import evaluate
import train
from diffguard.checkpoint.file import read_checkpoint
from diffguard_cli.parser import parse
from tests.helpers.read_sets import recorded_sets
from tests.helpers.tiny_configs import RESET, merge, shrink
from tests.helpers.tiny_project import tiny_config, write_images

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


def test_the_expected_configs_exist():
    assert train.DEFAULT_CONFIG in CONFIGS
    assert FOLDER / "paper_gdm.yaml" in CONFIGS


@pytest.mark.parametrize("path", sorted(FOLDER.glob("paper_*.yaml")), ids=lambda path: path.stem)
def test_presets_of_the_paper_decide_by_its_score(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["detector"]["decision"] == "diffguard"


@pytest.fixture
def tiny(tmp_path, data_root):
    """Arguments that combine a config with tiny data and networks."""

    def arguments(shipped):
        settings = yaml.safe_load(shipped.read_text())
        base = tiny_config(data_root)
        del base["detector"]
        write_images(tmp_path / "choice", 4, "noise", 77)
        base = merge(base, RESET)
        base["data"]["ood_validation"] = {"choice": str(tmp_path / "choice")}
        above = {**base, "detector": shrink(settings.get("detector", {}))}
        for name, content in (("below", base), ("above", above)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        order = (tmp_path / "below.yaml", shipped, tmp_path / "above.yaml")
        return [word for path in order for word in ("--config", str(path))]

    return arguments


@pytest.mark.parametrize("shipped", CONFIGS, ids=lambda path: path.stem)
def test_a_config_has_only_valid_keys(shipped, tiny):
    # Some configs contain settings only and need a config of data and networks.
    argv = tiny(shipped)[:4]
    parsed = parse(train.build_parser(), argv)
    config = yaml.safe_load(shipped.read_text())
    for section, values in config.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            result = parsed[section][key]
            if not isinstance(value, dict):
                result = list(result) if isinstance(result, tuple) else result
                assert result == value, f"{section}.{key}"


def own_settings(path):
    """What remains of a config if its data and the keys in `RESET` are left out."""
    settings = yaml.safe_load(path.read_text())
    stages = [
        {key: value for key, value in settings.get(name, {}).items() if key not in RESET[name]}
        for name in ("classifier", "diffusion", "trainer")
    ]
    return json.dumps([stages, settings.get("detector", {})], sort_keys=True)


# Configs that differ in data and sizes only have the same tiny pipeline. Those in
# test_latent_configs.py run there.
LATENT = ("imagenet", "paper_ldm", "stable_diffusion")
PIPELINES = list({own_settings(p): p for p in CONFIGS if p.stem not in LATENT}.values())


@pytest.mark.parametrize("shipped", PIPELINES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("no_figures")  # they are the same for all configs
def test_the_pipeline_of_a_config_runs(shipped, tiny, data_root, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        sets = recorded_sets(patch, data_root)
        assert train.main([*tiny(shipped), "--run_dir", str(run)]) == 0
    # No fit, calibration or choice may see a test image.
    assert sets == {"shapes_train", "shapes_validation"}
    settings = yaml.safe_load(shipped.read_text()).get("detector", {})
    small = shrink(settings)
    settings.get("early_stop", {}).pop("thresholds", None)
    content = read_checkpoint(run / "detector.ckpt")
    used = content["settings"]
    assert merge(used, merge(settings, small)) == used
    spec = content["diffusion"]["spec"]
    assert spec["config"]["sample_size"] * spec["patch"] == 8
    assert evaluate.main(["--ckpt", str(run / "detector.ckpt"), "--panels", "0"]) == 0
    results = json.loads((run / "evaluation" / "results.json").read_text())
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    for dataset in ("blank", "noise"):
        for score in ("diffguard", *(f"diffguard/{name}" for name in used["distance"])):
            assert 0 <= rows[score, dataset]["auroc"] <= 1
