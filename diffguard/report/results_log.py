"""What a logger receives from an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Layout = Mapping[str, Mapping[str, list[str]]]


class ResultsLog(Protocol):
    """Takes the results of an evaluation; a method that a logger cannot serve does nothing."""

    def hyperparameters(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Take the config, and the names of logged metrics by which runs are compared.

        Args:
            config: The config of the run, with nested keys.
            metrics: Name -> value; each is logged by `metrics` as well.
        """

    def metrics(self, values: Mapping[str, float]) -> None:
        """Take metrics, name -> value."""

    def text(self, name: str, markdown: str) -> None:
        """Take a text."""

    def histogram(self, name: str, values: NDArray[np.float64]) -> None:
        """Take the values `(N,)` of a histogram."""

    def pr_curve(self, name: str, is_ood: NDArray[np.bool_], ranks: NDArray[np.float64]) -> None:
        """Take a precision-recall curve.

        Args:
            name: Name of the curve.
            is_ood: `(N,)`, the positive class.
            ranks: `(N,)` in [0, 1], higher = more OOD.
        """

    def picture(self, name: str, file: Path) -> None:
        """Take a picture, an RGB image in a PNG file."""

    def layout(self, charts: Layout) -> None:
        """Take the arrangement of charts: category -> title -> names of metrics."""

    def close(self) -> None:
        """Write what is left."""
