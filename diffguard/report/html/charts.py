"""Interactive charts as Plotly figures in JSON; the page gives them its colors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from diffguard.printing import printable
from diffguard.report.figures import COLORS
from diffguard.report.metrics import auroc, roc_curve

Floats = NDArray[np.float64]

_POINTS = 400  # of a curve; more would not be visible
_BINS = 40
_DASHES = ("solid", "dash", "dashdot", "dot")
# Rows and columns of the tables: shares of flagged ID images, and quantiles of a score.
_FLAGGED = (0.01, 0.05, 0.1, 0.2)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: Its heading.
        summary: What it shows, for readers who do not see it.
        figure: The Plotly figure as JSON. The `meta` of a trace is the number of its color.
        heads: Headings of the table below the chart; the first column holds names.
        rows: Its rows.
    """

    title: str
    summary: str
    figure: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def roc_chart(name: str, ident: Floats, ood: Mapping[str, Floats]) -> Chart:
    """ROC curves of a score, with OOD as the positive class.

    Args:
        name: The score.
        ident: `(N,)` scores of the ID images, higher = more OOD.
        ood: Set name -> `(M,)` scores of its images.
    """
    figure, areas, rows = go.Figure(), [], []
    for number, (key, values) in enumerate(ood.items(), start=1):
        pair = torch.from_numpy(ident), torch.from_numpy(values)
        flagged, detected = (curve.numpy() for curve in roc_curve(*pair))
        share = f"{100 * auroc(*pair):.2f}%"
        area = f"{printable(key)}: AUROC {share}"
        areas.append(area)
        rows.append([key, share, *(f"{detected[flagged <= x].max():.1%}" for x in _FLAGGED)])
        hover = "%{y:.1%} of OOD detected<br>%{x:.1%} of ID flagged"
        figure.add_scatter(
            x=thin(flagged), y=thin(detected), name=_text(area), hovertemplate=hover,
            meta=_color(number), line=_line(number),
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": "share of ID images flagged"}, "tickformat": ".0%"},
        yaxis={"title": {"text": "share of OOD images detected"}, "tickformat": ".0%"},
    )
    heads = ["set", "AUROC", *(f"detected, {share:.0%} of ID flagged" for share in _FLAGGED)]
    return Chart(f"ROC curves of {name}", "; ".join(areas), figure.to_json(), heads, rows)


def score_chart(name: str, parts: Mapping[str, Floats], threshold: float | None) -> Chart:
    """Distribution of a score in each set, with the threshold.

    Args:
        name: The score.
        parts: Set name -> `(N,)` scores of its images, the ID set first, higher = more OOD.
        threshold: The score above which an image is OOD; None draws none.

    Returns:
        The chart. The outermost 0.5% of the scores of a set may share the first or the last bin.
    """
    figure, summary, rows = go.Figure(), [], []
    edges = _edges(parts.values())
    for number, (key, values) in enumerate(parts.items()):
        share = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values)
        label = f"{printable(key)} ({len(values):,})"
        figure.add_scatter(
            x=edges, y=np.append(share, share[-1]), name=_text(label),
            meta=_color(number), line=_line(number, "hv"),
            fill="tozeroy" if number == 0 else None,
            hovertemplate="%{y:.1%} of the images<br>from %{x:.3g}",
        )  # fmt: skip
        summary.append(f"{label}: median {np.median(values):.3g}")
        quantiles = [f"{value:.3g}" for value in np.quantile(values, _QUANTILES)]
        flagged = [] if threshold is None else [f"{(values > threshold).mean():.1%}"]
        rows.append([key, f"{len(values):,}", *quantiles, *flagged])
    if threshold is not None:
        figure.add_vline(
            threshold, line={"dash": "dash", "width": 2}, annotation={"text": "threshold"}
        )
        summary.append(f"threshold: {threshold:.3g}")
    figure.update_layout(
        xaxis={"title": {"text": f"{_text(name)} (higher = more OOD)"}},
        yaxis={"title": {"text": "share of the set's images"}, "tickformat": ".0%"},
    )
    heads = ["set", "images", *(f"{share:.0%} quantile" for share in _QUANTILES)]
    heads += [] if threshold is None else [f"above the threshold, {threshold:.3g}"]
    return Chart(f"Distribution of {name}", "; ".join(summary), figure.to_json(), heads, rows)


def stage_chart(shares: Mapping[str, Sequence[float]], stages: Sequence[str]) -> Chart:
    """Share of each set's images that each stage of a cascade decided.

    Args:
        shares: Set name -> share of each stage, in [0, 1].
        stages: The stages, in words.
    """
    figure, sets = go.Figure(), [_text(printable(name)) for name in shares]
    for number, stage in enumerate(stages):
        values = [share[number] for share in shares.values()]
        hover = f"%{{x:.1%}} decided by {stage}"
        figure.add_bar(
            x=values, y=sets, name=stage, orientation="h", hovertemplate=hover,
            meta=_color(number), marker={"color": COLORS[_color(number)]},
        )  # fmt: skip
    figure.update_layout(barmode="stack", xaxis={"tickformat": ".0%", "range": [0, 1]})
    summary = "; ".join(f"{name}: {share[0]:.1%} by {stages[0]}" for name, share in shares.items())
    rows = [[name, *(f"{part:.1%}" for part in share)] for name, share in shares.items()]
    return Chart("Stage that decides fusion", summary, figure.to_json(), ["set", *stages], rows)


def thin(curve: Floats) -> Floats:
    """At most `_POINTS` points of a curve, ends included."""
    places = np.linspace(0, len(curve) - 1, min(len(curve), _POINTS)).round().astype(int)
    return curve[places]


def _edges(parts: Iterable[Floats]) -> Floats:
    """Edges of common bins; a set of few images is as visible as one of many."""
    lows, highs = zip(*(np.quantile(values, [0.005, 0.995]) for values in parts), strict=True)
    low, high = min(lows), max(highs)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _color(number: int) -> int:
    """The number of a color; the style sheet has one for light and one for dark pages."""
    return number % len(COLORS)


def _line(number: int, shape: str = "linear") -> dict[str, object]:
    """The style of a curve; dashes distinguish curves without color."""
    color = COLORS[_color(number)]
    return {"color": color, "dash": _DASHES[number % len(_DASHES)], "shape": shape, "width": 2}


def _text(name: str) -> str:
    """A name for Plotly, which takes some HTML tags in texts."""
    return printable(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
