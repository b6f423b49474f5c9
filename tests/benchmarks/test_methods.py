"""Estimates of the table of methods: means over trainings, with intervals over test images."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.methods import Comparison
from diffguard.report.summary import summarize
from tests.helpers.small_table import make_run


def run_of(shift):
    """A run of the same images, whose OOD images score higher by `shift`."""
    run = make_run()
    is_ood = run.table.label < 0
    scores = {name: values + shift * is_ood for name, values in run.table.scores.items()}
    return replace(run, table=replace(run.table, scores=scores), seed=round(10 * shift))


def test_an_estimate_is_the_mean_of_the_trainings():
    runs = [run_of(shift) for shift in (0.0, 0.5, 1.0)]
    estimate = Comparison(runs).estimate("auroc", "msp", "far")
    rows = [row for run in runs for row in summarize(run, draws=2)["rows"]]
    values = [row["auroc"] for row in rows if (row["score"], row["dataset"]) == ("msp", "far")]
    assert estimate.trainings == values
    assert estimate.mean == pytest.approx(np.mean(values))
    assert estimate.interval[0] < estimate.mean < estimate.interval[1]


def test_trainings_and_scores_share_the_draws():
    single, double = Comparison([run_of(0.0)]), Comparison([run_of(0.0)] * 2)
    for against in (None, "fusion"):
        one, two = (c.estimate("auroc", "msp", "near", against) for c in (single, double))
        assert (one.mean, one.interval) == (two.mean, two.interval)
    same = single.estimate("auroc", "msp", "near", "msp")
    assert (same.mean, same.interval) == (0.0, (0.0, 0.0))
    plain, difference = (single.estimate("auroc", "msp", "near", a) for a in (None, "fusion"))
    assert np.ptp(difference.interval) < 2 * np.ptp(plain.interval)
