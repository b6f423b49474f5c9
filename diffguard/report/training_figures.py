"""Figures of a classifier in training: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffguard.report.figures import COLORS, as_written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 30  # classes whose names fit
_MOST_NUMBERS = 15  # classes whose counts fit into the cells


def confusion_figure(counts: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Confusion matrix, colored by the share of each true class.

    Args:
        counts: `(K, K)` images by true class (rows) and predicted class (columns).
        class_names: Names of the K classes.
    """
    from matplotlib.figure import Figure

    classes = len(counts)
    side = float(np.clip(0.55 * classes + 1.5, 4.5, 9.0))
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if classes <= _MOST_NAMES:
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
    if classes <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{counts.sum():,} validation images, accuracy {100 * accuracy:.2f} %")
    return as_written(figure)


def reliability_figure(
    counts: NDArray[np.float64], confidences: NDArray[np.float64], right: NDArray[np.float64]
) -> Figure:
    """Reliability diagram (Guo et al., 2017): accuracy against confidence.

    Args:
        counts: `(B,)` images in each of B bins of equal width of the confidence.
        confidences: `(B,)` sum of their confidences.
        right: `(B,)` number of them that the classifier gets right.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, len(counts) + 1)
    full = counts > 0
    accuracy, confidence = right[full] / counts[full], confidences[full] / counts[full]
    width = edges[1]
    upper.bar(edges[:-1][full], accuracy, width, align="edge", color=COLORS[0], alpha=0.6)
    upper.plot(confidence, accuracy, "o", color=COLORS[1], markersize=4)
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    error = calibration_error(counts, confidences, right)
    upper.set_title(f"expected calibration error {100 * error:.2f} %")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    lower.bar(edges[:-1], counts / max(counts.sum(), 1), width, align="edge", color="0.6")
    lower.set(xlabel="confidence of the prediction", ylabel="share of images")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return as_written(figure)


def calibration_error(
    counts: NDArray[np.float64], confidences: NDArray[np.float64], right: NDArray[np.float64]
) -> float:
    """Expected calibration error in [0, 1]; the arguments are those of `reliability_figure`."""
    return float(np.abs(confidences - right).sum() / max(counts.sum(), 1))


def pixels_of(figure: Figure, dpi: float | None = None) -> NDArray[np.uint8]:
    """The pixels of a figure, `(H, W, 3)`; in dots per inch, `dpi` defaults to the figure's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if dpi is not None:
        figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
