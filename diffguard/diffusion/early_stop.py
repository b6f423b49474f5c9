"""Adaptive early stop: how deep to invert each image.

Inversion of an image stops after the first step at which any quality of the state, compared with
the image, falls below its threshold, or after a maximum number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.errors import UserError


def should_stop(qualities: Tensor, thresholds: Sequence[float | None]) -> Tensor:
    """Apply the rule to one step.

    Args:
        qualities: `(M, N)`, M qualities of N states, higher = more like the image.
        thresholds: M values; None switches a quality off.

    Returns:
        `(N,)` bool: any quality is strictly below its threshold.
    """
    stop = torch.zeros_like(qualities[0], dtype=torch.bool)
    for quality, threshold in zip(qualities, thresholds, strict=True):
        if threshold is not None:
            stop |= quality < threshold
    return stop


def stop_index(
    qualities: Tensor, thresholds: Sequence[float | None], cap: int
) -> tuple[Tensor, Tensor]:
    """Apply the rule to whole trajectories.

    Args:
        qualities: `(S, M, N)`, the qualities after each of S inversion steps.
        thresholds: M values; None switches a quality off.
        cap: Most inversion steps, 1 … S.

    Returns:
        `(N,)` int64 index of the last step made, and `(N,)` bool whether the rule (not the cap)
        ended it.
    """
    flags = torch.stack([should_stop(step, thresholds) for step in qualities[:cap]])
    reached = flags.any(dim=0)
    first = flags.to(torch.int64).argmax(dim=0)
    return torch.where(reached, first, cap - 1), reached


# Halvings in the bisection of the common depth.
_HALVINGS = 24


def calibrate_thresholds(qualities: Tensor, mean_steps: float, cap: int) -> list[float]:
    """Find thresholds at which images stop, on average, after a given number of steps.

    All qualities get thresholds for one common depth. It is larger than `mean_steps`, because the
    first quality to fall ends an image. Bisection finds it.

    Args:
        qualities: `(S, M, N)`, M qualities of N ID validation images after each step.
        mean_steps: The mean number of inversion steps wanted, 1 … cap.
        cap: Most inversion steps, 1 … S.

    Returns:
        M thresholds.

    Raises:
        UserError: If `mean_steps` is outside its range.
    """

    def alone(depth: float) -> list[float]:
        return [calibrate_threshold(quality, depth, cap) for quality in qualities.unbind(1)]

    def miss(thresholds: list[float]) -> float:
        index, _ = stop_index(qualities, thresholds, cap)
        return float((index + 1).double().mean()) - mean_steps

    best = alone(mean_steps)
    low, high = mean_steps, float(cap)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        candidate = alone(middle)
        best = min(best, candidate, key=lambda thresholds: abs(miss(thresholds)))
        low, high = (middle, high) if miss(candidate) < 0 else (low, middle)
    return best


def calibrate_threshold(qualities: Tensor, mean_steps: float, cap: int) -> float:
    """Find the threshold at which images stop, on average, after a given number of steps.

    Args:
        qualities: `(S, N)`, one quality of N ID validation images after each step.
        mean_steps: The mean number of inversion steps wanted, 1 … cap.
        cap: Most inversion steps, 1 … S.

    Returns:
        The threshold whose mean number of steps is closest to `mean_steps`.

    Raises:
        UserError: If `mean_steps` is outside its range.
    """
    if not 1 <= mean_steps <= cap:
        raise UserError(f"the mean depth must be 1 to {cap:,} steps, got {mean_steps:g}")
    # A later step can only end an image if it sets a new low, so the running minimum decides.
    lowest = torch.cummin(qualities[:cap].double(), dim=0).values
    values = torch.unique(lowest)
    # Between the values, so that the last bits of a quality do not decide.
    between = (values[:-1] + values[1:]) / 2
    candidates = torch.cat([values[:1] - 1, between, values.new_tensor([float("inf")])])

    def mean_depth(threshold: float) -> float:
        # The number of steps is one more than that of the steps survived, at most the cap.
        survived = (lowest >= threshold).sum(dim=0).double()
        return float((survived + 1).clamp(max=cap).mean())

    # The depth falls as the threshold rises: bisect for the last threshold that is deep enough.
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if mean_depth(float(candidates[middle])) >= mean_steps:
            low = middle
        else:
            high = middle - 1
    around = candidates[low : low + 2].tolist()
    best = min(around, key=lambda value: abs(mean_depth(value) - mean_steps))
    return float(best)
