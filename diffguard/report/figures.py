"""Figures for TensorBoard and for files: score histograms, ROC curves, stop depths.

Each function returns a matplotlib `Figure` without a window or global state. matplotlib is imported
on first use, so that programs without figures do not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from diffguard.printing import printable
from diffguard.report.metrics import auroc, roc_curve

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Okabe and Ito's palette, which color-blind readers can distinguish. Orange, sky blue and yellow
# are darker here, so that lines contrast with white at 3:1. ID always has the first color.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#2B8CC4", "#000000", "#8C8000")
_LINES = ("-", "--", "-.", ":")
_BINS = 40
_POINTS = 2000  # of a curve; more would not be visible


def score_histogram(id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], name: str) -> Figure:
    """Histogram of a score on ID images against each OOD set.

    Args:
        id_scores: `(N,)` scores of the ID images, higher = more OOD.
        ood_scores: Set name -> `(M,)` scores of its images.
        name: Name of the score, for the axis.

    Returns:
        A figure with one panel, densities over common bins. The outermost 0.5% of all scores share
        the first and the last bin, so that one far outlier does not squeeze the rest.
    """
    figure, axes = _new_figure(f"{name}: ID against OOD")
    parts = {"ID": np.asarray(id_scores, dtype=np.float64)}
    parts |= {key: np.asarray(values, dtype=np.float64) for key, values in ood_scores.items()}
    low, high = np.quantile(np.concatenate(list(parts.values())), [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    for (key, values), (color, line) in zip(parts.items(), _styles(len(parts)), strict=True):
        counts = np.histogram(values.clip(low, high), edges)[0]
        density = counts / counts.sum() / (edges[1] - edges[0])
        label = f"{key} ({len(values):,})"
        axes.stairs(density, edges, fill=key == "ID", alpha=0.35 if key == "ID" else 1.0,
                    color=color, linestyle=line, linewidth=1.8, label=label)  # fmt: skip
    axes.set(xlabel=f"{name} (higher = more OOD)", ylabel="density", xlim=(low, high))
    axes.set_ylim(bottom=0)
    _legend_below(axes, len(parts))
    return as_written(figure)


def roc_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str) -> Figure:
    """ROC curves with OOD as the positive class.

    Args:
        curves: Label -> (ID scores `(N,)`, OOD scores `(M,)`), higher = more OOD: the sets of one
            score, or several scores on one set.
        title: Title of the figure.

    Returns:
        A figure with one panel and the AUROC of each curve in the legend.

    Raises:
        UserError: If a score is not finite or a curve has no ID or no OOD image.
    """
    figure, axes = _new_figure(title, width=5.6, height=5.6)
    # The first style belongs to ID, so that a set looks the same here and in the histogram.
    styles = _styles(len(curves) + 1)[1:]
    for (key, scores), (color, line) in zip(curves.items(), styles, strict=True):
        ident, ood = (torch.as_tensor(np.asarray(values, dtype=np.float64)) for values in scores)
        flagged, detected = (values.numpy() for values in roc_curve(ident, ood))
        label = f"{key}: AUROC {100 * auroc(ident, ood):.2f} %"
        axes.plot(_thin(flagged), _thin(detected), color=color, linestyle=line, label=label)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    axes.axhline(0.95, color="0.7", linewidth=1, linestyle=":", zorder=0)
    axes.set(xlabel="share of ID flagged", ylabel="share of OOD detected", aspect="equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right", frameon=False)
    return as_written(figure)


def stop_depth_histogram(stop_steps: Mapping[str, ArrayLike], last_step: int) -> Figure:
    """Histogram of the inversion steps at which the images of each set stopped.

    Args:
        stop_steps: Set name -> `(N,)` steps, 0-based; −1 marks images without one, which are left
            out.
        last_step: The deepest step that the settings allow.

    Returns:
        A figure with one panel: per set the share of images that stopped at each step.
    """
    figure, axes = _new_figure("depth of the inversion")
    edges = np.arange(last_step + 2) - 0.5
    for (key, values), (color, line) in zip(
        stop_steps.items(), _styles(len(stop_steps)), strict=True
    ):
        steps = np.asarray(values)
        steps = steps[steps >= 0]
        share = np.histogram(steps, edges)[0] / max(len(steps), 1)
        axes.stairs(share, edges, color=color, linestyle=line, linewidth=1.8, label=key)
    axes.set(xlabel="inversion step at which an image stopped", ylabel="share of images")
    axes.set(xlim=(-0.5, last_step + 0.5))
    axes.set_ylim(bottom=0)
    _legend_below(axes, len(stop_steps))
    return as_written(figure)


def as_written(figure: Figure) -> Figure:
    """Show names from files literally: no formulas between dollar signs, no broken characters."""
    for text in _texts(figure):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    return figure


def _texts(artist: Artist) -> Iterator[Text]:
    """The texts of an artist, except numbers at ticks, which take long to make."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text
    from matplotlib.ticker import ScalarFormatter

    if isinstance(artist, Text):
        yield artist
    elif isinstance(artist, Axis) and isinstance(artist.get_major_formatter(), ScalarFormatter):
        yield artist.label
    else:
        for child in artist.get_children():
            yield from _texts(child)


def _new_figure(title: str, width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styles(number: int) -> list[tuple[str, str]]:
    """Color and line style of each curve; the styles differ in black and white too."""
    return [
        (COLORS[i % len(COLORS)], _LINES[(i + i // len(COLORS)) % len(_LINES)])
        for i in range(number)
    ]


def _legend_below(axes: Axes, entries: int) -> None:
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=min(entries, 3),
        frameon=False,
    )


def _thin(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `_POINTS` points of a curve, ends included."""
    places = np.linspace(0, len(curve) - 1, min(len(curve), _POINTS)).round().astype(int)
    return curve[places]
