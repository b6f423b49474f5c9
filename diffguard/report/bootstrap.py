"""Stratified bootstrap of AUROC and FPR@95.

ID and OOD images are resampled separately with replacement. A draw is a pair of count vectors
(c, d), how often each ID and each OOD image was drawn. All scores share the counts, and all sets of
a run share the ID counts. Differences of scores are therefore paired, and means over sets account
for the ID images that the sets share.

If no set of a run has more than `EXACT_ROWS` images together with the ID set, the metrics of a draw
are those of the drawn images (`exact_draws.py`). Otherwise they are expanded to first order
(`first_order_draws.py`), and more than `GROUPS` images of a kind are drawn in `GROUPS` random
groups: sums over groups vary like sums over images, up to a relative error of 1 / √(2 GROUPS), 1%,
of the standard deviation. Both approximations move an interval by far less than another seed does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from diffguard.report.exact_draws import ExactDraws
from diffguard.report.first_order_draws import FirstOrderDraws

DRAWS = 1_000
EXACT_ROWS = 20_000
GROUPS = 5_000
METRICS = ("auroc", "fpr95_id_positive", "fpr95_ood_positive")
_CHUNK_VALUES = 4_000_000  # counts in memory at a time

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


class Bootstrap:
    """Bootstrap draws of the OOD sets of a run, with one draw of ID images for all sets.

    Args:
        id_scores: Per score `(n,)` finite values of the ID images, higher = more OOD.
        largest: Number of images of the largest OOD set.
        draws: Number of draws.
        seed: It alone determines the ID images of each draw.
    """

    def __init__(
        self, id_scores: Sequence[Floats], largest: int, *, draws: int = DRAWS, seed: int = 0
    ) -> None:
        self.id_scores, self.number, self.seed = id_scores, draws, seed
        count = len(id_scores[0])
        self.is_exact = count + largest <= EXACT_ROWS
        self._id_counts = _counts(np.random.default_rng([seed, 0]), self._size(count), draws)

    def draws(self, ood_scores: Sequence[Floats], name: str) -> Mapping[str, Floats]:
        """The metrics of each draw on one OOD set.

        Args:
            ood_scores: Per score `(m,)` finite values of the images of the set.
            name: Name of the set; with the seed, it determines the OOD images of each draw.

        Returns:
            Metric of `METRICS` -> `(draws, scores)` in [0, 1]. Row b of all sets and scores is the
            same draw.
        """
        evaluate: ExactDraws | FirstOrderDraws
        if self.is_exact:
            evaluate = ExactDraws(self.id_scores, ood_scores)
        else:
            evaluate = FirstOrderDraws(self.id_scores, ood_scores, GROUPS)
        size, id_counts = self._size(len(ood_scores[0])), self._id_counts
        rng = np.random.default_rng([self.seed, 1, crc32(name.encode())])
        chunk = max(1, _CHUNK_VALUES // (size + id_counts.shape[1]))
        parts = []
        for start in range(0, self.number, chunk):
            c = id_counts[start : start + chunk]
            parts.append(evaluate(c, _counts(rng, size, len(c))))
        values = np.concatenate(parts).clip(0.0, 1.0)
        return {metric: values[..., place] for place, metric in enumerate(METRICS)}

    def _size(self, count: int) -> int:
        return count if self.is_exact else min(count, GROUPS)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws.

    Args:
        values: `(draws,)` of a metric, of a mean of several, or of a difference of two.
        level: Share of the draws inside, in (0, 1).

    Returns:
        Lower and upper end.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(rng: np.random.Generator, size: int, draws: int) -> Counts:
    """How often each of `size` images is drawn, `(draws, size)`."""
    counts = np.empty((draws, size), dtype=np.int32)
    for row in counts:
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return counts
