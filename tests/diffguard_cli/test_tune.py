"""Choosing a detector's settings on validation sets."""

import re

import numpy as np
import pytest
import torch

from diffguard.checkpoint.file import read_checkpoint
from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard_cli import tune
from diffguard_cli.rankings import mean_auroc, pairs_of_kinds


@pytest.fixture
def ckpt(run_folder, tmp_path):
    """The tiny detector, with an OOD validation set."""
    content = read_checkpoint(run_folder / "detector.ckpt")
    content["config"]["data"]["ood_validation"] = {"noise": "folder:far"}
    torch.save(content, tmp_path / "detector.ckpt")
    return str(tmp_path / "detector.ckpt")


def test_the_grid_is_scored_and_the_best_setting_is_ranked(ckpt, capsys):
    words = [ckpt, "--depths", "0.5", "--scales", "1.5", "3"]
    assert tune.main([*words, "--steps", "2", "--limit", "4", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(" | ")[:3] == ["| steps", "depth", "scale"]
    rows = [line for line in lines if line.startswith("| 2 |")]
    assert [row.split(" | ")[1:3] for row in rows] == [["0.5", "1.5"], ["0.5", "3"]]
    values = [float(row.split(" | ")[5]) for row in rows]
    best = lines.index("| diffguard at the best setting: distances | AUROC |")
    assert float(re.search(r"\| ([\d.]+) \|$", lines[best + 2])[1]) == pytest.approx(max(values))


def test_config_without_an_ood_validation_set_is_refused(run_folder):
    with pytest.raises(UserError, match="no OOD validation set"):
        tune.main([str(run_folder / "detector.ckpt")])


def test_pairs_have_a_distance_of_each_kind():
    settings = DetectorSettings(distances=["l2", "logits_l1"], unguided=["l1"])
    assert list(pairs_of_kinds(settings)) == [
        ["logits_l1", "l2"],
        ["logits_l1", "unguided/l1"],
    ]


def test_mean_auroc_is_averaged_over_the_ood_sets():
    table = {
        "id": {"score": np.array([0.0, 1.0])},
        "far": {"score": np.array([2.0, 3.0])},
        "same": {"score": np.array([0.0, 1.0])},
    }
    assert mean_auroc(table, "score") == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "nonsense"], "--device nonsense cannot be used: "),
        (["--depths", "0.5", "7"], "detector.inversion.depth must lie in .0, 1., got 7"),
        (["--steps", "0"], "detector.sampler.steps must be at least 1, got 0"),
        (["--scales", "1", "-1"], "scale must be at least 0"),
        (["--limit", "0"], "data.limit must be at least 1"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_scored(ckpt, capsys, words, message):
    with pytest.raises(UserError, match=message):
        tune.main([ckpt, *words])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changes", [{"distances": ["l2"]}, {"baselines": [], "fused": [], "decision": "diffguard"}]
)
def test_a_detector_without_a_choice_is_refused(ckpt, changes):
    content = torch.load(ckpt, weights_only=True)
    content["settings"] |= changes
    torch.save(content, ckpt)
    with pytest.raises(UserError, match="the detector has nothing to choose from"):
        tune.main([ckpt])
