"""One combination of steps, depth and scale, scored on the validation sets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.one_standard_error import Ranking
from diffguard_cli.rankings import Table, rank_distances, rank_fused
from diffguard_cli.validation import score_validation


@dataclass(frozen=True)
class Trial:
    """One combination of the grid.

    Attributes:
        settings: The detector's settings, with the chosen distances.
        table: The scores of the validation sets.
        passes: `(n,)` network passes of the ID images.
        mean_passes: Network passes per image of all sets.
        seconds: Duration of the scoring.
        distances: The ranking of distances.
        fusions: The ranking of sets of baselines.
    """

    settings: DetectorSettings
    table: Table
    passes: np.ndarray
    mean_passes: float
    seconds: float
    distances: Ranking[list[str]]
    fusions: Ranking[list[str]]

    def cells(self) -> list[str]:
        """The cells of the table after steps, depth and scale."""
        cells = [f"{self.mean_passes:.0f}", f"{self.seconds:.0f}"]
        for best in (self.distances.best, self.fusions.best):
            cells += [f"{best.auroc:.4f}", ", ".join(best.choice)]
        return cells


def trial_settings(
    settings: Mapping[str, Any], steps: int, depth: float, scale: float
) -> dict[str, Any]:
    """The settings of a trial, in which no image skips the diffusion model."""
    form = settings["guidance"]
    return {
        **settings,
        "sampler": {**settings["sampler"], "steps": steps},
        "inversion": {**settings["inversion"], "depth": depth},
        form: {**settings[form], "scale": scale},
        "fusion": {},
    }


def run_trial(detector: Detector, data: OODDataModule) -> Trial:
    """Score the validation sets and choose distances and baselines.

    Args:
        detector: The detector with the settings of the trial.
        data: The DataModule.
    """
    start = time.perf_counter()
    table, results = score_validation(detector, data)
    seconds = time.perf_counter() - start
    rows = sorted((image.row for image in results), key=lambda row: row.index)
    distances = rank_distances(table, detector.settings)
    settings = replace(detector.settings, distance=distances.best.choice)
    return Trial(
        settings,
        table,
        passes=np.array([row.network_passes for row in rows if row.dataset == next(iter(table))]),
        mean_passes=float(np.mean([row.network_passes for row in rows])),
        seconds=seconds,
        distances=distances,
        fusions=rank_fused(table, settings),
    )
