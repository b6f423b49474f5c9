"""One combination of steps, depth and scale, scored on the validation sets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.ood import OODDataModule
from diffguard.cost import count_passes
from diffguard.detector import Detector
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.one_standard_error import Ranking, rank
from diffguard_cli.rankings import Table, diffguard, distance_choices
from diffguard_cli.validation import score_validation


@dataclass(frozen=True)
class Trial:
    """One combination of the grid.

    Attributes:
        settings: The detector's settings.
        table: The scores of the validation sets.
        passes: `(n,)` network passes of the ID images, with all distances.
        guided_share: Share of these passes that distances to the input alone need, without the
            unguided reconstruction.
        seconds: Duration of the scoring.
    """

    settings: DetectorSettings
    table: Table
    passes: np.ndarray
    guided_share: float
    seconds: float

    def passes_of(self, distance: Sequence[str]) -> np.ndarray:
        """Network passes `(n,)` that these distances need for the ID images."""
        needs_unguided = any(name.startswith("unguided/") for name in distance)
        return self.passes if needs_unguided else self.guided_share * self.passes


@dataclass(frozen=True)
class Choice:
    """A combination of the grid and the distances of `diffguard`."""

    trial: Trial
    distance: list[str]

    @property
    def passes(self) -> np.ndarray:
        """Network passes `(n,)` of the ID images."""
        return self.trial.passes_of(self.distance)

    @property
    def settings(self) -> DetectorSettings:
        """The settings of this choice."""
        return replace(self.trial.settings, distance=self.distance)


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
    """Score the validation sets.

    Args:
        detector: The detector with the settings of the trial.
        data: The DataModule.
    """
    start = time.perf_counter()
    table, results = score_validation(detector, data)
    seconds = time.perf_counter() - start
    id_set = next(iter(table))
    rows = sorted((image.row for image in results), key=lambda row: row.index)
    passes = np.array([row.network_passes for row in rows if row.dataset == id_set])
    return Trial(detector.settings, table, passes, _guided_share(detector), seconds)


def rank_trials(trials: Sequence[Trial]) -> Ranking[Choice]:
    """Rank trials and distances by `diffguard`.

    The cost is the network passes per ID image, then the number of distances.

    Args:
        trials: The trials, of the same images.
    """
    ranked = []
    for trial in trials:
        for distance in distance_choices(trial.settings):
            choice = Choice(trial, distance)
            cost = (float(np.mean(choice.passes)), float(len(distance)))
            ranked.append((choice, cost, diffguard(trial.table, trial.settings, distance)))
    return rank(ranked)


def _guided_share(detector: Detector) -> float:
    parts = (detector.classifier, detector.denoiser, detector.settings)
    _, guided = count_passes(*parts, unguided=False)
    _, both = count_passes(*parts)
    return guided / both
