"""A scored run: everything that results are computed from, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffguard.report.opponents import Opponents
from diffguard.score_table.table import ScoreTable


@dataclass(frozen=True)
class Thresholds:
    """The scores above which an image is OOD.

    Attributes:
        accept: Share of ID images that they were calibrated for, in (0, 1).
        scores: Score -> its threshold.
    """

    accept: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class ScoredRun:
    """A scored run, or several of the same data joined.

    Attributes:
        folder: Its evaluation folder.
        table: The score table.
        groups: Set name -> `id`, `near` or `far`.
        sets: Set name -> its entry in the manifest, with the number of images and a fingerprint.
        seed: Seed of the run.
        calibration: Score -> `(n,)` float64 of the ID validation images; empty if the folder has
            no such scores.
        settings: Facts about the run that results report.
        absent: Sets of the config that were missing, with the reason.
        cost: Images per second, fill of the batches and cost of each score, if the folder records
            them; see `read_cost`.
        headline: Scores that get figures.
        comparisons: Pairs (score, against) whose AUROC is compared.
        remarks: Remarks for readers of the results.
        contents: `(N,)` int64 hashes of the images in the order of the table; None if the folder
            does not record them.
        thresholds: The calibrated thresholds; None if the folder does not record them.
        opponents: The baselines that DiffGuard is compared with; None if the folder does not record
            them.
    """

    folder: Path
    table: ScoreTable
    groups: dict[str, str]
    sets: dict[str, dict[str, Any]]
    seed: int
    calibration: dict[str, Tensor]
    settings: dict[str, Any]
    absent: dict[str, str]
    cost: dict[str, Any]
    headline: list[str]
    comparisons: list[tuple[str, str]]
    remarks: list[str] = field(default_factory=list)
    contents: NDArray[np.int64] | None = None
    thresholds: Thresholds | None = None
    opponents: Opponents | None = None

    def threshold_of(self, score: str) -> float | None:
        """The threshold of a score, if it has one."""
        return None if self.thresholds is None else self.thresholds.scores.get(score)


def passes_per_image(table: ScoreTable) -> dict[str, float]:
    """Mean `network_passes_per_image`; empty if no row records it."""
    passes = table.network_passes[table.valid & (table.network_passes >= 0)]
    return {"network_passes_per_image": float(passes.mean())} if len(passes) else {}
