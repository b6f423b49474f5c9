"""AUROC and FPR@95 of bootstrap draws, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffguard.report.metrics import needed_hits

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


class ExactDraws:
    r"""The metrics of the drawn images, from cumulative counts in the order of each score.

    With counts c and d of the ID images i and the OOD images j, the AUROC of a draw is

        A* = Σ_ij c_i d_j h_ij / (n m),    h_ij = [s_i < s_j] + ½ [s_i = s_j].

    Args:
        id_scores: Per score `(n,)` of the ID images.
        ood_scores: Per score `(m,)` of the OOD images.
    """

    def __init__(self, id_scores: Sequence[Floats], ood_scores: Sequence[Floats]) -> None:
        self._scores = [_Pair(ident, ood) for ident, ood in zip(id_scores, ood_scores, strict=True)]

    def __call__(self, c: Counts, d: Counts) -> Floats:
        """AUROC, FPR@95 (ID positive) and FPR@95 (OOD positive), `(draws, scores, 3)`.

        Args:
            c: `(draws, n)` counts of the ID images.
            d: `(draws, m)` counts of the OOD images.
        """
        return np.stack([pair.metrics(c, d) for pair in self._scores], axis=1)


class _Pair:
    """One score of the ID and the OOD images."""

    def __init__(self, ident: Floats, ood: Floats) -> None:
        self._id_order, self._ood_order = np.argsort(ident), np.argsort(ood)
        self._ident, self._ood = ident[self._id_order], ood[self._ood_order]
        self._below = np.searchsorted(self._ident, self._ood, "left")
        self._up_to = np.searchsorted(self._ident, self._ood, "right")

    def metrics(self, c: Counts, d: Counts) -> Floats:
        d = np.take(d, self._ood_order, axis=1)
        id_counts = _cumulative(np.take(c, self._id_order, axis=1))
        ood_counts = _cumulative(d)
        n, m = len(self._ident), len(self._ood)
        twice = np.take(id_counts, self._below, axis=1)
        twice += np.take(id_counts, self._up_to, axis=1)
        auroc = np.einsum("km,km->k", twice, d, dtype=np.int64) / (2 * n * m)
        accepted = _fpr(self._ident, id_counts, self._ood, ood_counts)
        # The same from the highest score down.
        flagged = _fpr(
            -self._ood[::-1],
            m - ood_counts[:, ::-1],
            -self._ident[::-1],
            n - id_counts[:, ::-1],
        )
        return np.stack([auroc, accepted, flagged], axis=1)


def _cumulative(counts: Counts) -> Counts:
    """Sums `(draws, n + 1)` of the first 0, 1, … n columns."""
    sums = np.zeros((len(counts), counts.shape[1] + 1), dtype=np.int32)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


def _fpr(
    positive: Floats, positive_counts: Counts, negative: Floats, negative_counts: Counts
) -> Floats:
    """Share of the drawn negatives up to the score that at least 95% of the positives reach.

    Args:
        positive: `(p,)` sorted scores.
        positive_counts: `(draws, p + 1)` their cumulative counts.
        negative: `(q,)` sorted scores.
        negative_counts: `(draws, q + 1)` their cumulative counts.
    """
    first = (positive_counts[:, 1:] >= needed_hits(len(positive))).argmax(axis=1)
    end = np.searchsorted(negative, positive[first], side="right")
    share: Floats = negative_counts[np.arange(len(end)), end] / len(negative)
    return share
