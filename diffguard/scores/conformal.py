r"""Conformal verdicts: p-values and thresholds whose guarantee holds for any classifier.

With the scores of n ID validation images, the p-value of a score s is

    p(s) = (1 + #{validation scores ≥ s}) / (n + 1).

If a new ID image is exchangeable with the validation images, p ≤ α with a probability of at most α,
for any n and any distribution of the scores (Vovk et al., 2005). An image is OOD if p ≤ 1 − accept,
which means that its score is above the validation score of rank ⌈(n + 1) · accept⌉. The share of
new ID images that this threshold accepts is at least `accept` on average over validation sets. For
one validation set, it follows a Beta distribution.

Scores of many images can also be judged together: the procedure of Benjamini and Hochberg keeps the
expected share of ID images among the flagged ones at or below a false discovery rate. It remains
valid for conformal p-values that share the validation images (Bates et al., 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffguard.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judgment:
    """Verdicts on N scores.

    Attributes:
        percentile: `(N,)` share of ID validation images with at most this score, 0 … 100.
        p_value: `(N,)` conformal p-value in (0, 1], lower = more OOD.
        is_ood: `(N,)` bool.
    """

    percentile: Floats
    p_value: Floats
    is_ood: NDArray[np.bool_]


def judge(
    reference: ArrayLike, scores: ArrayLike, *, accept: float, fdr: float | None = None
) -> Judgment:
    """Judge scores.

    Args:
        reference: `(n,)` scores of the ID validation images, higher = more OOD.
        scores: `(N,)` scores of the images to judge.
        accept: Share of ID images to accept, in (0, 1).
        fdr: If given, images are flagged at this false discovery rate in (0, 1) instead.

    Raises:
        UserError: If a share is not in (0, 1), or needs more validation images.
    """
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    values = np.asarray(scores, dtype=np.float64)
    count = len(ordered)
    percentile = 100.0 * (np.searchsorted(ordered, values, side="right") / count)
    p_value = p_values(ordered, values)
    if fdr is None:
        is_ood = values > ordered[threshold_rank(count, accept) - 1]
    else:
        is_ood = discoveries(p_value, fdr, count)
    return Judgment(percentile, p_value, is_ood)


def p_values(reference: ArrayLike, scores: ArrayLike) -> Floats:
    """Conformal p-values `(N,)` of scores, in (0, 1], lower = more OOD.

    Args:
        reference: `(n,)` scores of the ID validation images.
        scores: `(N,)` finite scores of the images to judge.
    """
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    below = np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    values: Floats = (1 + len(ordered) - below) / (len(ordered) + 1)
    return values


def threshold(reference: ArrayLike, accept: float) -> float:
    """The score above which an image is OOD.

    Args:
        reference: `(n,)` scores of the ID validation images, higher = more OOD.
        accept: Share of ID images to accept, in (0, 1).

    Raises:
        UserError: If the share is not in (0, 1), or needs more validation images.

    Example:
        >>> threshold(range(1, 100), accept=0.95)
        95.0
    """
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    return float(ordered[threshold_rank(len(ordered), accept) - 1])


def threshold_rank(count: int, accept: float) -> int:
    """Rank of the threshold among the scores of `count` validation images, from 1.

    Raises:
        UserError: If the share is not in (0, 1), or needs more validation images.
    """
    check_share(accept, "the accepted share")
    # A decimal share is meant as written: in binary, 100 · 0.07 is above 7.
    rank = math.ceil((count + 1) * Decimal(str(accept)))
    if rank > count:
        raise UserError(
            f"to accept {as_percent(accept)} of ID images takes at least {needed_images(accept):,} "
            f"ID validation images, but the detector was calibrated on {count:,}: accept a smaller "
            "share, or calibrate on more images"
        )
    return rank


def needed_images(accept: float) -> int:
    """The number of ID validation images without which no threshold accepts this share."""
    share = Decimal(str(accept))
    return math.ceil(share / (1 - share))


def as_percent(share: float) -> str:
    """A share that a user chose, as a percentage with all its digits."""
    return f"{100 * share:.6g}%"


def accepted_interval(count: int, accept: float) -> tuple[float, float]:
    """95% interval of the share of new ID images that a threshold accepts.

    The threshold of rank r among n images accepts a share with the distribution Beta(r, n + 1 − r).

    Args:
        count: Number n of ID validation images.
        accept: Share of ID images to accept, in (0, 1).

    Raises:
        UserError: If the share is not in (0, 1), or needs more validation images.
    """
    from scipy.stats import beta

    rank = threshold_rank(count, accept)
    low, high = beta.ppf([0.025, 0.975], rank, count + 1 - rank)
    return float(low), float(high)


def discoveries(p_values: Floats, fdr: float, count: int) -> NDArray[np.bool_]:
    """Flag images by the procedure of Benjamini and Hochberg.

    Args:
        p_values: `(N,)` conformal p-values of all images.
        fdr: Expected share of ID images among the flagged ones, in (0, 1).
        count: Number n of ID validation images.

    Returns:
        `(N,)` bool.

    Raises:
        UserError: If the rate is not in (0, 1), or lower than the lowest p-value, 1 / (n + 1).
    """
    check_share(fdr, "the false discovery rate")
    rate = Decimal(str(fdr))
    if (count + 1) * rate < 1:
        raise UserError(
            f"a false discovery rate of {fdr:.6g} takes at least {math.ceil(1 / rate) - 1:,} ID "
            f"validation images, but the detector was calibrated on {count:,}: raise the rate, or "
            "calibrate on more images"
        )
    if not len(p_values):
        return np.zeros(0, dtype=bool)
    from scipy.stats import false_discovery_control

    # An adjusted p-value that equals the rate may be rounded up.
    flags: NDArray[np.bool_] = false_discovery_control(p_values, method="bh") <= fdr * (1 + 1e-12)
    return flags


def check_share(value: float, name: str) -> None:
    """Refuse a value outside (0, 1).

    Raises:
        UserError: For such a value.
    """
    if not 0 < value < 1:
        raise UserError(f"{name} must lie between 0 and 1, got {value:g}")
