"""Fusion of scores in tandem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.errors import UserError


def tandem(scores: Sequence[Tensor], bands: Sequence[tuple[float, float]]) -> Tensor:
    """Fuse scores in tandem: each score decides the clear cases and passes the others on.

    With s_k the k-th score, (low_k, high_k) its band of doubt and t_k the tandem from stage k on:
    `t_k = s_k` outside `[low_k, high_k]`; within it `t_k = low_k + (high_k - low_k) φ(t_{k+1})`
    with φ(x) = ½ (1 + x/(1 + |x|)), which rises from 0 to 1. Clear ID cases thus stay below all
    doubtful ones and clear OOD cases above them, the next stage orders the doubtful ones, and the
    result never falls if a score rises.

    Args:
        scores: Two or more `(N,)`, finite, higher = more OOD. All but the first must be calibrated
            (z-scores or percentiles), because φ bends at 0 on a scale of 1.
        bands: `(low, high)` with low < high for each score but the last, in units of that score.

    Returns:
        `(N,)` float64, because in float32 a narrow band would merge scores.

    Raises:
        UserError: If the numbers of scores and bands do not match or a band is empty.
    """
    if len(scores) < 2 or len(bands) != len(scores) - 1:
        raise UserError(
            f"tandem needs two or more scores and a band for each but the last, got "
            f"{len(scores)} scores and {len(bands)} bands"
        )
    if any(not low < high for low, high in bands):
        raise UserError(f"a tandem band must be (low, high) with low < high, got {list(bands)}")
    value = scores[-1].double()
    for score, (low, high) in zip(reversed(scores[:-1]), reversed(bands), strict=True):
        first = score.double()
        doubtful = (first >= low) & (first <= high)
        share = 0.5 * (1.0 + value / (1.0 + value.abs()))
        value = torch.where(doubtful, low + (high - low) * share, first)
    return value
