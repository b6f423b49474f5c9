"""Stratified bootstrap of the AUROC.

ID and OOD images are resampled separately with replacement. A draw is a pair of count vectors
(c, d), how often each ID and each OOD image was drawn, and its AUROC is

    A* = Σ_ij c_i d_j h_ij / (n m),    h_ij = [s_i < s_j] + ½ [s_i = s_j].

All scores share the counts, and all sets of a report share the ID counts. Differences of scores are
therefore paired, and means over sets account for the ID images that the sets share.

If no set has more than `EXACT_ROWS` images, A* is computed exactly. Otherwise it is expanded to
first order around A (Hájek projection; V and W are the placements of DeLong's variance):

    A* ≈ Σ_i c_i V_i / n + Σ_j d_j W_j / m − A,    V_i = Σ_j h_ij / m,  W_j = Σ_i h_ij / n.

The neglected term is of order 1 / √(n m), the others of order 1 / √n and 1 / √m. More than
`GROUPS` images of a kind are drawn in `GROUPS` random groups: sums of V and W over groups vary like
sums over images, up to a relative error of 1 / √(2 GROUPS), 1%, of the standard deviation. Both
approximations move an interval by far less than another seed does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

EXACT_ROWS = 20_000
GROUPS = 5_000
_CHUNK_VALUES = 4_000_000  # counts in memory at a time

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


def auroc_draws(
    id_scores: Sequence[Floats],
    ood_scores: Sequence[Floats],
    name: str,
    *,
    draws: int = 1000,
    seed: int = 0,
    exact: bool | None = None,
) -> Floats:
    """AUROC of bootstrap draws, for all scores of one OOD set.

    Args:
        id_scores: Per score `(n,)` finite values of the ID images, higher = more OOD.
        ood_scores: Per score `(m,)` finite values of the images of the OOD set.
        name: Name of the OOD set; with the seed, it determines the OOD images of each draw.
        draws: Number of draws.
        seed: Seed; with `exact`, it alone determines the ID images of each draw.
        exact: Whether A* is computed exactly; by default up to `EXACT_ROWS` images. Sets whose
            draws are averaged or compared need the same value, or they do not share ID images.

    Returns:
        `(draws, len(id_scores))` in [0, 1]. Row b of all sets and scores is the same draw.
    """
    n, m = len(id_scores[0]), len(ood_scores[0])
    evaluate: _Exact | _FirstOrder
    if exact is None:
        exact = n + m <= EXACT_ROWS
    if exact:
        evaluate = _Exact(id_scores, ood_scores)
    else:
        evaluate = _FirstOrder(id_scores, ood_scores)
        n, m = min(n, GROUPS), min(m, GROUPS)
    chunk = max(1, _CHUNK_VALUES // (n + m))
    id_counts = _counts(np.random.default_rng([seed, 0]), n, draws, chunk)
    ood_counts = _counts(np.random.default_rng([seed, 1, crc32(name.encode())]), m, draws, chunk)
    chunks = [evaluate(c, d) for c, d in zip(id_counts, ood_counts, strict=True)]
    return np.concatenate(chunks).clip(0.0, 1.0)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws.

    Args:
        values: `(draws,)` of an AUROC, of a mean of several, or of a difference of two.
        level: Share of the draws inside, in (0, 1).

    Returns:
        Lower and upper end.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(rng: np.random.Generator, size: int, draws: int, chunk: int) -> Iterator[Counts]:
    """Yield how often each of `size` images is drawn, `(up to chunk, size)` at a time."""
    for start in range(0, draws, chunk):
        counts = np.empty((min(chunk, draws - start), size), dtype=np.int32)
        for row in counts:
            row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
        yield counts


class _Exact:
    """A* from the cumulative ID counts in the order of each score."""

    def __init__(self, id_scores: Sequence[Floats], ood_scores: Sequence[Floats]) -> None:
        self._orders = [np.argsort(values) for values in id_scores]
        ranked = [values[order] for values, order in zip(id_scores, self._orders, strict=True)]
        self._places = [
            (np.searchsorted(ident, ood, "left"), np.searchsorted(ident, ood, "right"))
            for ident, ood in zip(ranked, ood_scores, strict=True)
        ]

    def __call__(self, c: Counts, d: Counts) -> Floats:
        pairs = c.shape[1] * d.shape[1]
        result = np.empty((len(c), len(self._orders)))
        cumulative = np.zeros((len(c), c.shape[1] + 1), dtype=np.int32)
        for column, (order, (below, up_to)) in enumerate(
            zip(self._orders, self._places, strict=True)
        ):
            np.cumsum(np.take(c, order, axis=1), axis=1, out=cumulative[:, 1:])
            twice = np.take(cumulative, below, axis=1)
            twice += np.take(cumulative, up_to, axis=1)
            result[:, column] = np.einsum("km,km->k", twice, d, dtype=np.int64) / (2 * pairs)
        return result


class _FirstOrder:
    """A* to first order, from the placements V of the ID and W of the OOD images, in groups."""

    def __init__(self, id_scores: Sequence[Floats], ood_scores: Sequence[Floats]) -> None:
        self._n, self._m = len(id_scores[0]), len(ood_scores[0])
        id_groups, ood_groups = _groups(self._n), _groups(self._m)
        v, w, aurocs = [], [], []
        for ident, ood in zip(id_scores, ood_scores, strict=True):
            id_order, ood_order = np.argsort(ident), np.argsort(ood)
            ranked_id, ranked_ood = ident[id_order], ood[ood_order]
            above_id = _share_below(ranked_id, ranked_ood)
            auroc = above_id.mean()
            below_ood = 1 - _share_below(ranked_ood, ranked_id)
            v.append(np.bincount(id_groups[id_order], below_ood - auroc))
            w.append(np.bincount(ood_groups[ood_order], above_id - auroc))
            aurocs.append(auroc)
        self._v, self._w, self._aurocs = np.stack(v, 1), np.stack(w, 1), np.array(aurocs)

    def __call__(self, c: Counts, d: Counts) -> Floats:
        return self._aurocs + c @ self._v / self._n + d @ self._w / self._m


def _groups(size: int) -> NDArray[np.int32]:
    """The group of each of `size` images: its own, or one of `GROUPS` of equal size, at random."""
    groups = np.arange(size, dtype=np.int32)
    if size > GROUPS:
        groups %= GROUPS
        np.random.default_rng(size).shuffle(groups)
    return groups


def _share_below(ranked: Floats, scores: Floats) -> Floats:
    """For each of sorted scores the share of other sorted scores below it, ties counted half."""
    below = np.searchsorted(ranked, scores, side="left")
    return (below + np.searchsorted(ranked, scores, side="right")) / (2 * len(ranked))
