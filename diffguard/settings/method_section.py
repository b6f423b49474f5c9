"""What the settings sections of the methods have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class MethodSettings:
    """The settings of a method in addition to DiffGuard."""

    @property
    def distance_names(self) -> list[str]:
        """The distances by which the method compares images; most methods have none."""
        return []

    @property
    def fit_shape(self) -> tuple[int, ...]:
        """Shape of what the method is fitted to on ID training images; most are not fitted."""
        return ()

    def light(self) -> Self:
        """Settings with the same network passes that need no weights and fit 2 × 2 pixels."""
        return self
