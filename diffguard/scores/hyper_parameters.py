"""Hyper-parameters of the baselines, with the values that `diffguard tune` tries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffguard.errors import UserError
from diffguard.scores.reference import Reference

Values = Callable[[Reference, int], Sequence[float]]


@dataclass(frozen=True)
class HyperParameter:
    """A setting of a baseline.

    Attributes:
        key: Its name in the section `detector`.
        default: Its default there.
        least: The smallest valid value, or with `above` the limit below all valid values.
        below: Valid values are below this one; None if there is no limit.
        values: The values that `diffguard tune` tries, for reference features and a number of
            classes.
        cost: What should be low among values with about the same AUROC: how far the score is from
            that without the hyper-parameter.
        above: Whether `least` itself is invalid.
    """

    key: str
    default: float | None
    least: float
    below: float | None
    values: Values
    cost: Callable[[float], float] = float
    above: bool = False

    def check(self, value: float | None) -> None:
        """Refuse a value out of range; None is valid if it is the default.

        Raises:
            UserError: Naming the hyper-parameter.
        """
        if value is None and self.default is None:
            return
        if value is None or not math.isfinite(value):
            raise UserError(f"detector.{self.key} must be a finite number, got {value}")
        if value < self.least or (self.above and value == self.least):
            limit = "above" if self.above else "at least"
            raise UserError(f"detector.{self.key} must be {limit} {self.least:g}, got {value}")
        if self.below is not None and value >= self.below:
            raise UserError(f"detector.{self.key} must be below {self.below:g}, got {value}")


def listed(*values: float) -> Values:
    """The same values for all classifiers."""
    return lambda _reference, _classes: values


def class_counts(_reference: Reference, classes: int) -> list[int]:
    """OpenOOD's numbers of classes below that of the classifier, and all classes, at most 1,000."""
    return sorted({min(count, classes) for count in (10, 50, 100, 200, 500, 1000)})


def activation_shares(*values: float) -> Values:
    """Those of the values that leave an activation if they are the share of removed ones."""
    return lambda reference, _classes: [
        value for value in values if kept_activations(value, reference.features.shape[1])
    ]


def kept_activations(share: float, width: int) -> int:
    """The number of largest activations of `width` without a share of the smallest."""
    return width - round(share * width)


def neighbor_counts(reference: Reference, _classes: int) -> list[int]:
    """Numbers of neighbors among all ID training images, see `Reference.neighbors`."""
    counts = [k for k in (1, 5, 10, 20, 50, 100, 200) if k <= len(reference.features)]
    return [round(k / reference.share) for k in counts]


def dimensions(reference: Reference, _classes: int) -> list[int]:
    """Numbers of dimensions below that of the features."""
    width = reference.features.shape[1]
    return sorted({max(1, round(share * width)) for share in (0.125, 0.25, 0.5, 0.75)} - {width})
