"""Negative log p-values, the common scale of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Up to this quantile, p-values are counted on the validation images; above, a tail is fitted.
_KNEE = 0.9


class NegativeLogP:
    """Negative log p-value: -log of the share of ID images that score at least as high.

    Up to the 90% quantile of the ID validation images, the share is counted and interpolated
    between scores, so that rounding errors of a score stay small. Above it, where images are rare,
    an exponential tail with their mean excess keeps far outliers in order. If a score is
    heavy-tailed, this tail is too light, and far outliers weigh more in a mean of scores than their
    true p-values would. If all n images score alike, a higher score has the p-value 1 / (n + 1).

    Args:
        reference: `(n,)` float64 scores of the ID validation images.
    """

    def __init__(self, reference: NDArray[np.float64]) -> None:
        ordered = np.sort(reference)
        self._levels, smaller = np.unique(ordered, return_index=True)
        # If the highest scores are equal, some images must still lie above the knee.
        below_top = float(self._levels[max(0, len(self._levels) - 2)])
        self._knee = min(float(np.quantile(ordered, _KNEE)), below_top)
        excess = ordered[ordered > self._knee] - self._knee
        self._excess = float(excess.mean()) if len(excess) else None
        # Counting one more image on both sides avoids a share of 0.
        above = len(ordered) - smaller
        self._body = -np.log((above + 1) / (len(ordered) + 1))
        self._most = float(np.log(len(ordered) + 1))

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores `(N,)` to `(N,)`, at least 0 and never falling with the score; NaN stays."""
        if self._excess is None:
            return np.where(np.isnan(values), values, (values > self._knee) * self._most)
        body = np.interp(np.minimum(values, self._knee), self._levels, self._body)
        return body + np.maximum(values - self._knee, 0.0) / self._excess
