"""The settings of detection methods are chosen on validation images."""

import json

import pytest
import torch
import yaml

from benchmarks import method_settings
from diffguard.checkpoint.file import read_checkpoint
from tests.helpers.read_sets import recorded_sets
from tests.helpers.validated import with_ood_validation


@pytest.fixture
def ckpt(run_folder, tmp_path):
    """The tiny detector with an OOD validation set, and a comparator, as the demo has."""
    path = with_ood_validation(run_folder / "detector.ckpt", tmp_path)
    content = read_checkpoint(path)
    content["settings"]["comparator"] = ["msp", "knn"]
    torch.save(content, path)
    return path


def test_named_methods_are_searched_with_the_settings_of_the_checkpoint(
    ckpt, data_root, tmp_path, monkeypatch
):
    choices = method_settings.grid(repeats=(1,), distance=("l2", "ssim"))
    monkeypatch.setattr(method_settings, "GRIDS", {"diffguard": [{}], "minority": choices})
    sets = recorded_sets(monkeypatch, data_root)
    words = [str(ckpt), str(tmp_path / "out"), "--limit", "3", "--methods", "minority"]
    assert method_settings.main(words) == 0
    assert sets == {"shapes_validation", "choice", "turned"}  # no test image
    rows = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [row["settings"] for row in rows["minority"]] == choices
    best = max(rows["minority"], key=lambda row: row["auroc"])
    text = (tmp_path / "out" / "settings.yaml").read_text()
    assert yaml.safe_load(text) == {
        "detector": {"methods": ["diffguard", "minority"], "minority": best["settings"]}
    }
