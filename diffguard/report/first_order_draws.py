"""AUROC and FPR@95 of bootstrap draws to first order, for large sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffguard.report.metrics import needed_hits

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


class FirstOrderDraws:
    r"""The metrics of bootstrap draws, expanded around their values on all images.

    AUROC, by its Hájek projection (V and W are the placements of DeLong's variance):

        A* ≈ Σ_i c_i V_i / n + Σ_j d_j W_j / m − A,    V_i = Σ_j h_ij / m,  W_j = Σ_i h_ij / n.

    The neglected term is of order 1 / √(n m), the others of order 1 / √n and 1 / √m.

    FPR@95, by Bahadur's representation of a quantile: with the threshold t on all images, the
    shares F of the positives and G of the negatives up to a score, and their drawn values F*, G*,

        FPR* ≈ G(t*) + G*(t) − G(t),    F(t*) = F(t) + 0.95 − F*(t).

    The neglected term is of order n^(−3/4).

    Args:
        id_scores: Per score `(n,)` of the ID images.
        ood_scores: Per score `(m,)` of the OOD images.
        groups: More images of a kind are drawn in this number of random groups.
    """

    def __init__(
        self, id_scores: Sequence[Floats], ood_scores: Sequence[Floats], groups: int
    ) -> None:
        n, m = len(id_scores[0]), len(ood_scores[0])
        id_groups, ood_groups = _groups(n, groups), _groups(m, groups)
        pairs = list(zip(id_scores, ood_scores, strict=True))
        self._aurocs = [_Auroc(ident, ood, id_groups, ood_groups) for ident, ood in pairs]
        self._accepted = [_Fpr(ident, ood, id_groups, ood_groups) for ident, ood in pairs]
        # The same from the highest score down.
        self._flagged = [_Fpr(-ood, -ident, ood_groups, id_groups) for ident, ood in pairs]

    def __call__(self, c: Counts, d: Counts) -> Floats:
        """AUROC, FPR@95 (ID positive) and FPR@95 (OOD positive), `(draws, scores, 3)`.

        Args:
            c: `(draws, groups of ID images)` counts.
            d: `(draws, groups of OOD images)` counts.
        """
        columns = [
            [auroc(c, d), accepted(c, d), flagged(d, c)]
            for auroc, accepted, flagged in zip(
                self._aurocs, self._accepted, self._flagged, strict=True
            )
        ]
        return np.moveaxis(np.array(columns), 2, 0)


class _Auroc:
    def __init__(self, ident: Floats, ood: Floats, id_groups: Counts, ood_groups: Counts) -> None:
        id_order, ood_order = np.argsort(ident), np.argsort(ood)
        ranked_id, ranked_ood = ident[id_order], ood[ood_order]
        above_id = _share_below(ranked_id, ranked_ood)
        below_ood = 1 - _share_below(ranked_ood, ranked_id)
        self._auroc = above_id.mean()
        self._v = np.bincount(id_groups[id_order], below_ood - self._auroc) / len(ident)
        self._w = np.bincount(ood_groups[ood_order], above_id - self._auroc) / len(ood)

    def __call__(self, c: Counts, d: Counts) -> Floats:
        values: Floats = self._auroc + c @ self._v + d @ self._w
        return values


class _Fpr:
    """Share of the negatives up to the score that at least 95% of the positives reach."""

    def __init__(
        self,
        positive: Floats,
        negative: Floats,
        positive_groups: Counts,
        negative_groups: Counts,
    ) -> None:
        self._positive, self._negative = np.sort(positive), np.sort(negative)
        self._place = needed_hits(len(positive)) - 1
        reached, passed = (scores <= self._positive[self._place] for scores in (positive, negative))
        self._hits = np.bincount(positive_groups, reached - reached.mean())
        self._alarms = np.bincount(negative_groups, passed - passed.mean()) / len(negative)

    def __call__(self, c: Counts, d: Counts) -> Floats:
        size = len(self._positive)
        place = np.rint(self._place - c @ self._hits).astype(np.intp).clip(0, size - 1)
        end = np.searchsorted(self._negative, self._positive[place], side="right")
        values: Floats = end / len(self._negative) + d @ self._alarms
        return values


def _groups(size: int, limit: int) -> Counts:
    """The group of each of `size` images: its own, or one of `limit` of equal size, at random."""
    groups = np.arange(size, dtype=np.int32)
    if size > limit:
        groups %= limit
        np.random.default_rng(size).shuffle(groups)
    return groups


def _share_below(ranked: Floats, scores: Floats) -> Floats:
    """For each of sorted scores the share of other sorted scores below it, ties counted half."""
    below = np.searchsorted(ranked, scores, side="left")
    return (below + np.searchsorted(ranked, scores, side="right")) / (2 * len(ranked))
