"""The baselines that an evaluation compares DiffGuard with."""

import json

import pytest
import torch

import evaluate
from diffguard import Detector
from diffguard.report.metrics import auroc
from diffguard_cli.opponents import validated_opponents
from diffguard_cli.validation import score_validation, validation_data
from tests.helpers.read_sets import recorded_sets
from tests.helpers.validated import with_ood_validation


@pytest.fixture
def ckpt(run_folder, tmp_path):
    return with_ood_validation(run_folder / "detector.ckpt", tmp_path)


def test_the_best_baseline_is_chosen_on_validation_images_alone(ckpt, data_root, monkeypatch):
    detector = Detector.load(ckpt)
    config = torch.load(ckpt, weights_only=True)["config"]["data"]
    data = validation_data(config, None)
    table, _ = score_validation(detector, data)
    sets = recorded_sets(monkeypatch, data_root)
    opponents = validated_opponents(detector, data, 8)
    assert sets == {"choice"}  # no test image; the ID scores are those of the calibration
    values = {name: torch.from_numpy(table["choice"][name]) for name in opponents.names}
    expected = {
        name: float(auroc(detector.calibration.scores[name], scores))
        for name, scores in values.items()
    }
    assert opponents.auroc == pytest.approx(expected)
    assert opponents.best == max(expected, key=expected.get)
    assert opponents.sets == ("choice",)
    for image in (ckpt.parent / "choice").iterdir():
        image.unlink()
    (ckpt.parent / "choice").rmdir()
    opponents = validated_opponents(detector, validation_data(config, None), 8)
    assert opponents.best is None
    assert "a validation set is absent" in opponents.reason


def test_an_evaluation_compares_with_the_best_baseline(ckpt, capsys):
    assert evaluate.main(["--ckpt", str(ckpt), "--panels", "0"]) == 0
    results = json.loads((ckpt.parent / "evaluation" / "results.json").read_text())
    best = results["baselines"]["best"]
    assert {(row["score"], row["against"]) for row in results["comparisons"]} == {
        ("fusion", "fusion_baselines"),
        ("diffguard", best),
        ("fusion", best),
    }
    assert f"{best}, by its AUROC of" in capsys.readouterr().out
