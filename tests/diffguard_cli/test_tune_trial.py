"""Ranking combinations of steps, depth, scale and distances."""

import numpy as np
import pytest

from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings
from diffguard.settings.sections import SamplerSettings
from diffguard_cli.tune_trial import Trial, rank_trials, run_trial
from diffguard_cli.validation import validation_data
from tests.helpers.tiny_project import write_images


def make_trial(steps, scale, table, passes):
    settings = DetectorSettings(
        sampler=SamplerSettings(steps=steps),
        guidance=ClassifierFreeSettings(scale=scale),
        distances=["logits_l1"],
        distance=["logits_l1"],
        unguided=["l2"],
    )
    count = len(table["id"]["diffguard/logits_l1"])
    return Trial(settings, table, np.full(count, passes), guided_share=0.75, seconds=1.0)


def trial_table(quality, seed):
    """Scores with errors of their own around what all trials see of an image."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(0)
    table = {}
    for name, size in (("id", 300), ("near", 200), ("far", 250)):
        image = shared.normal(size=size) + (0 if name == "id" else quality)
        image += 0.2 * rng.normal(size=size)
        table[name] = {
            "diffguard/logits_l1": image,
            "diffguard/unguided/l2": image + 0.01 * rng.normal(size=size),
        }
    return table


def test_the_fewest_passes_within_one_standard_error_win():
    slow = make_trial(10, 1.5, trial_table(2.0, 1), 40.0)
    level = make_trial(5, 1.5, trial_table(2.02, 2), 20.0)
    worse = make_trial(5, 3.0, trial_table(1.5, 3), 20.0)
    worst = make_trial(2, 3.0, trial_table(0.5, 4), 8.0)
    ranking = rank_trials([slow, level, worse, worst])
    best = ranking.best.choice
    assert (best.settings.sampler.steps, best.settings.guidance.scale) == (5, 1.5)
    # One distance to the input needs no unguided reconstruction, and three quarters of the passes.
    assert best.settings.distance == ["logits_l1"]
    assert ranking.best.cost == (15, 1)
    assert ranking.best.auroc < ranking.candidates[0].auroc
    assert ranking.candidates[0].auroc - ranking.best.auroc <= ranking.best.error
    costs = {tuple(c.choice.distance): c.cost for c in ranking.candidates if c.choice.trial is slow}
    assert costs == {
        ("logits_l1",): (30, 1),
        ("unguided/l2",): (40, 1),
        ("logits_l1", "unguided/l2"): (40, 2),
    }
    # Without the level one, the slow one is far ahead of the cheap ones.
    assert rank_trials([slow, worse, worst]).best.choice.trial is slow


def test_the_share_of_guided_passes_is_measured(run_folder, tmp_path):
    content = read_checkpoint(run_folder / "detector.ckpt")
    write_images(tmp_path / "choice", 4, "noise", 77)
    content["config"]["data"]["ood_validation"] = {"choice": str(tmp_path / "choice")}
    settings = {**content["settings"], "unguided": ["l2"]}
    scores = content["calibration"]["scores"]
    scores["diffguard/unguided/l2"] = scores["diffguard/l2"].clone()
    trial = run_trial(
        Detector.from_checkpoint(content, settings=settings),
        validation_data(content["config"]["data"], 2),
    )
    without = run_trial(
        Detector.from_checkpoint(content, settings={**settings, "unguided": []}),
        validation_data(content["config"]["data"], 2),
    )
    assert trial.passes_of(["logits_l1"]) == pytest.approx(without.passes)
    assert trial.passes_of(["unguided/l2"]).tolist() == trial.passes.tolist()
    assert trial.passes.mean() > without.passes.mean()
