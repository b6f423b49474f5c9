"""A small scored run with ties, unreadable images and a set without a group."""

from pathlib import Path

import numpy as np

from diffguard.report.opponents import Opponents
from diffguard.report.scored_run import ScoredRun, Thresholds
from diffguard.score_table.table import ScoreTable

SIZES = {"digits": 50, "unused": 5, "near_a": 30, "far_a": 40, "far_b": 20}
GROUPS = {"far_b": "far", "digits": "id", "far_a": "far", "near_a": "near"}
NAMES = ["msp", "diffguard", "diffguard/l2", "fusion", "fusion_baselines"]


def make_table():
    rng = np.random.default_rng(0)
    sizes = list(SIZES.values())
    dataset = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    index = np.concatenate([np.arange(n) for n in sizes]).astype(np.int32)
    n = len(dataset)
    is_ood = dataset != 0
    scores = {
        name: np.round(rng.normal(is_ood * (1 + 0.3 * k), 1), 1) for k, name in enumerate(NAMES)
    }
    label = np.where(is_ood, -1, index % 5).astype(np.int32)
    prediction = np.where(index % 10 == 3, 0, index % 5).astype(np.int32)
    error = np.full(n, "", dtype=object)
    path = np.array([f"{i}.png" for i in range(n)], dtype=object)
    passes = np.where(is_ood, 40, 60).astype(np.int32)
    # The last images of digits, far_b and the set without a group are unreadable.
    for row, text in ((49, "truncated"), (54, "not used"), (n - 1, "too large")):
        error[row], prediction[row], passes[row] = text, -1, -1
        for values in scores.values():
            values[row] = np.nan
    return ScoreTable(
        tuple(SIZES), dataset, index, path, label, prediction, np.full(n, 0.5), scores,
        np.where(passes > 0, 2, -1), np.full(n, 3, dtype=np.int32), passes, error,
    )  # fmt: skip


def make_run(**changes):
    options = {
        "folder": Path(),
        "table": make_table(),
        "groups": GROUPS,
        "sets": {},
        "seed": 3,
        "calibration": {},
        "settings": {"seed": 7},
        "absent": {},
        "cost": {"images_per_second": 12.5},
        "headline": [],
        "opponents": Opponents(("msp",), {"msp": 0.7}, ("choice",)),
        "comparisons": [("fusion", "fusion_baselines")],
        "thresholds": Thresholds(0.9, {name: 1.2 + k / 10 for k, name in enumerate(NAMES)}),
    }
    return ScoredRun(**{**options, **changes})
