r"""The cascade: baselines decide the clear images, a fusion with the diffusion model the others.

Stage one is a score b of the baselines, on the scale of negative log p-values. An image is in doubt
if b lies in the band [low, high]; all other images are decided by b alone. With f the fusion of all
parts, the score is

    b               if b < low     (clearly ID)
    low + f/(1 + f) if b in band
    b + 1           if b > high    (clearly OOD).

Images in doubt thus lie above the clear ID images and below the clear OOD images, and f orders
them. As f ≥ 0 and never falls if a part rises, the same holds for the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """The scores of stage one between which an image is in doubt; both ends belong to it.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float

    @classmethod
    def of_shares(cls, reference: Floats, shares: tuple[float, float]) -> Band:
        """The band between two quantiles of the ID validation images.

        Args:
            reference: `(n,)` their scores of stage one.
            shares: Shares of these images below the two ends, in [0, 1].
        """
        low, high = np.quantile(reference, shares)
        return cls(float(low), float(high))

    @classmethod
    def of_budget(cls, reference: Floats, passes: Floats, budget: float, high_share: float) -> Band:
        """The widest band below an upper end whose mean number of passes is within a budget.

        Args:
            reference: `(n,)` scores of stage one of the ID validation images.
            passes: `(n,)` network passes that each of them takes if it is in doubt.
            budget: Most network passes per ID image, on average over all n images.
            high_share: Share of the images below the upper end, in [0, 1].

        Returns:
            The band; it is empty if the budget does not suffice for any image.
        """
        high = float(np.quantile(reference, high_share))
        levels, place = np.unique(reference, return_inverse=True)
        # Mean passes if the band begins at a level and ends at `high`.
        per_level = np.bincount(place, np.where(reference <= high, passes, 0.0))
        means = per_level[::-1].cumsum()[::-1] / len(reference)
        affordable = levels[(means <= budget) & (levels <= high)]
        return cls(float(affordable[0]) if len(affordable) else np.inf, high)

    @property
    def is_empty(self) -> bool:
        """Whether no image can be in doubt."""
        return self.low > self.high

    def holds(self, stage_one: Floats) -> NDArray[np.bool_]:
        """Whether images are in doubt, `(N,)`."""
        return (stage_one >= self.low) & (stage_one <= self.high)


def cascade(stage_one: Floats, fusion: Floats, band: Band) -> Floats:
    """The score of the cascade, see the module.

    Args:
        stage_one: `(N,)` scores of the baselines, at least 0, higher = more OOD.
        fusion: `(N,)` fusion of all parts, at least 0; it is not used for clear images and may be
            NaN there.
        band: Where images are in doubt.

    Returns:
        `(N,)` float64, higher = more OOD.

    Example:
        >>> cascade(np.array([0.5, 2.0, 2.0, 9.0]), np.array([np.nan, 1.0, 3.0, 7.0]), Band(1, 3))
        array([ 0.5 ,  1.5 ,  1.75, 10.  ])
    """
    doubtful = band.holds(stage_one)
    score = np.where(stage_one > band.high, stage_one + 1.0, stage_one)
    score[doubtful] = band.low + fusion[doubtful] / (1.0 + fusion[doubtful])
    return score
