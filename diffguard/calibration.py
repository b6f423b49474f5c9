"""What a detector learns from ID validation images: normalisation, fusion, threshold.

Nothing here sees an OOD image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffguard.errors import UserError

DIFFGUARD = "diffguard"
FUSION = "fusion"
FUSION_BASELINES = "fusion_baselines"

# With fewer images the share that a threshold accepts is known too roughly.
ENOUGH_IMAGES = 200


@dataclass
class Calibration:
    """Scores of the ID validation images, and what follows from them.

    Attributes:
        scores: Score -> `(n,)` float64 of the n ID validation images, higher = more OOD; fused
            scores included.
        fused: The baselines that `fusion` combines with `diffguard`.
    """

    scores: dict[str, Tensor]
    fused: list[str]

    @classmethod
    def fit(cls, scores: Mapping[str, Tensor], fused: Sequence[str]) -> Calibration:
        """Calibrate from the plain scores of ID validation images; fused ones are added.

        Raises:
            UserError: Where there are fewer than two images, or a score does not vary.
        """
        calibration = cls({}, list(fused))
        for name, values in scores.items():
            if len(values) < 2 or float(values.std()) == 0:
                raise UserError(
                    f"score {name} of the ID validation images does not vary over {len(values)} "
                    "images: check data.id.validation and the detector's settings"
                )
            calibration.scores[name] = values.double().cpu()
        table = {name: values.numpy() for name, values in calibration.scores.items()}
        calibration.scores |= {
            name: torch.from_numpy(values) for name, values in calibration.fuse(table).items()
        }
        return calibration

    def normalize(self, name: str, values: np.ndarray) -> np.ndarray:
        """A score in standard deviations above its mean on ID validation images."""
        reference = self.scores[name]
        return (values - float(reference.mean())) / float(reference.std())

    def fuse(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Combine DiffGuard with the baselines.

        `fusion` is the mean of the normalised `diffguard` and of the mean of the normalised fused
        baselines; `fusion/<baseline>` the mean of the normalised `diffguard` and that baseline;
        `fusion_baselines` the mean of the normalised baselines, without `diffguard`.

        Args:
            scores: Score -> `(N,)`, at least `diffguard` and the fused baselines.

        Returns:
            The fused scores, `(N,)` each; none where nothing is fused.
        """
        if not self.fused:
            return {}
        own = self.normalize(DIFFGUARD, scores[DIFFGUARD])
        parts = {name: self.normalize(name, scores[name]) for name in self.fused}
        baselines = np.mean(list(parts.values()), axis=0)
        fused = {FUSION: (own + baselines) / 2}
        fused |= {f"{FUSION}/{name}": (own + part) / 2 for name, part in parts.items()}
        fused[FUSION_BASELINES] = baselines
        return fused

    def threshold(self, name: str, accept: float) -> float:
        """The score up to which at least a share `accept` of the ID validation images lies.

        Raises:
            UserError: For an unknown score or a share outside (0, 1).
        """
        if not 0 < accept < 1:
            raise UserError(f"the accepted share must lie between 0 and 1, got {accept:g}")
        ordered = self._known(name).sort().values
        return float(ordered[math.ceil(accept * len(ordered)) - 1])

    def percentile(self, name: str, value: float) -> float:
        """Share of the ID validation images, in percent, whose score is at most `value`."""
        reference = self._known(name)
        return 100.0 * float((reference <= value).double().mean())

    def accept_interval(self, accept: float) -> tuple[float, float]:
        """95% interval of the share of new ID images that a threshold at `accept` accepts.

        The r-th smallest of n scores accepts a Beta(r, n + 1 - r) distributed share.
        """
        from scipy.stats import beta

        count = len(next(iter(self.scores.values())))
        rank = math.ceil(accept * count)
        low, high = beta.ppf([0.025, 0.975], rank, count + 1 - rank)
        return float(low), float(high)

    def _known(self, name: str) -> Tensor:
        if name not in self.scores:
            raise UserError(
                f"the detector has no score {name!r}, expected one of {', '.join(self.scores)}"
            )
        return self.scores[name]
