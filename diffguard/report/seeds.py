"""Results of several seeds: AUROC as mean ± standard deviation, and tests of DiffGuard's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

import numpy as np
from pydantic import Field
from scipy.stats import ttest_rel
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.report.holm import holm
from diffguard.report.opponents import (
    Opponents,
    PlainOpponents,
    comparisons,
    mean_opponents,
)
from diffguard.storage.json_files import read_json
from diffguard.storage.paths import require_file

Values = Mapping[tuple[str, str], float]  # of a score on a set or group
_GROUPS = ("near", "far")
# Differences of AUROC below it are rounding errors.
_ROUNDING = 1e-12


class _Row(TypedDict):
    score: str
    dataset: str
    auroc: float
    fpr95_id_positive: float


class _Id(TypedDict):
    accuracy: float


class _Comparison(TypedDict):
    score: str
    against: str
    group: str
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]


class _Results(TypedDict):
    rows: list[_Row]
    id: _Id
    comparisons: list[_Comparison]
    baselines: NotRequired[PlainOpponents | None]


@dataclass(frozen=True)
class Seed:
    """The results of one seed.

    Attributes:
        auroc: AUROC of each score on each set and group, in [0, 1].
        fpr95: FPR@95 with ID as the positive class, likewise.
        accuracy: Accuracy of the classifier on the ID test images, in [0, 1].
        opponents: The baselines of the run; None if its results do not record them.
        intervals: (score, against, group) -> 95% interval of the difference of AUROC, for the
            comparisons of the run.
    """

    auroc: Values
    fpr95: Values
    accuracy: float
    opponents: Opponents | None
    intervals: Mapping[tuple[str, str, str], tuple[float, float]]


@dataclass(frozen=True)
class PairedTest:
    """A test of whether two scores have the same AUROC, over the seeds.

    Attributes:
        score: The tested score.
        against: The score that it is compared with.
        group: `near` or `far`, the mean over the OOD sets of a group.
        differences: AUROC of the first minus that of the second, in [-1, 1], one per seed.
        intervals: Their 95% bootstrap intervals; None for a seed that has not compared the two.
        p_value: Two-sided p-value of the paired t-test; 1 if the differences do not vary, because
            they then give no standard error.
        holm: The same after Holm's correction for the number of tests.
    """

    score: str
    against: str
    group: str
    differences: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    p_value: float
    holm: float


def read_seeds(folders: Sequence[Path]) -> list[Seed]:
    """Read the results of evaluations that differ in their seed only.

    Args:
        folders: Evaluation folders, two or more.

    Raises:
        UserError: If there is only one or one is named twice, a `results.json` is missing or
            damaged, or the evaluations differ in their scores or sets.
    """
    if len(folders) < 2:
        raise UserError("--over_seeds compares several seeds: name two evaluation folders or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--over_seeds got a folder twice: name each evaluation folder once")
    seeds: list[Seed] = []
    for folder in folders:
        seeds.append(_read_seed(folder))
        if seeds[-1].auroc.keys() != seeds[0].auroc.keys():
            raise UserError(
                f"{folder} and {folders[0]} differ in their scores or sets: evaluate them alike"
            )
    return seeds


def _read_seed(folder: Path) -> Seed:
    results = read_json(require_file(folder / "results.json", "results"), _Results)
    rows, plain = results["rows"], results.get("baselines")
    return Seed(
        auroc={(row["score"], row["dataset"]): row["auroc"] for row in rows},
        fpr95={(row["score"], row["dataset"]): row["fpr95_id_positive"] for row in rows},
        accuracy=results["id"]["accuracy"],
        opponents=None if plain is None else Opponents.from_plain(plain),
        intervals={
            (row["score"], row["against"], row["group"]): (row["ci95"][0], row["ci95"][1])
            for row in results["comparisons"]
        },
    )


def opponents_of(seeds: Sequence[Seed]) -> Opponents | None:
    """The baselines of all seeds with their mean AUROC on validation; None if not recorded."""
    opponents = [seed.opponents for seed in seeds if seed.opponents is not None]
    return mean_opponents(opponents) if len(opponents) == len(seeds) else None


def paired_tests(seeds: Sequence[Seed]) -> list[PairedTest]:
    """Test the comparisons of `opponents.comparisons` on near-OOD and far-OOD.

    One baseline is chosen for all seeds, by its mean AUROC on the OOD validation sets.

    Args:
        seeds: Two seeds or more.
    """
    scores = {score for score, _ in seeds[0].auroc}
    groups = [group for group in _GROUPS if any(name == group for _, name in seeds[0].auroc)]
    pairs = comparisons(scores, opponents_of(seeds))
    keys = [(score, against, group) for score, against in pairs for group in groups]
    p_values, gains = [], []
    for score, against, group in keys:
        first, second = ([seed.auroc[name, group] for seed in seeds] for name in (score, against))
        gains.append(tuple(a - b for a, b in zip(first, second, strict=True)))
        is_constant = np.ptp(gains[-1]) < _ROUNDING
        p_values.append(1.0 if is_constant else float(ttest_rel(first, second).pvalue))
    adjusted = holm(p_values)
    return [
        PairedTest(*key, gain, tuple(seed.intervals.get(key) for seed in seeds), p_value, value)
        for key, gain, p_value, value in zip(keys, gains, p_values, adjusted, strict=True)
    ]
