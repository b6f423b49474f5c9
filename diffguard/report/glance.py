"""A figure of the results in short: AUROC and FPR@95 of the main scores on near and far OOD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from diffguard.report.figures import COLORS, as_written
from diffguard.report.overview import METRICS, headline, short_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def at_a_glance(results: Mapping[str, Any]) -> Figure:
    """Bars with 95% intervals: a panel per metric, a row per score, a color per group.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    from matplotlib.figure import Figure

    rows = short_rows(results)
    groups = list(rows[0].groups)
    height = 0.8 / len(groups)
    figure = Figure(figsize=(9.0, 1.6 + 0.55 * len(rows)), layout="constrained")
    figure.suptitle(headline(results), fontsize=11)
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for number, group in enumerate(groups):
            lines = [row.groups[group] for row in rows]
            values = 100 * np.array([line[metric] for line in lines])
            ends = 100 * np.array([line[f"{metric}_ci95"] for line in lines]).T
            # The interval of a bootstrap may lie on one side of the value.
            errors = np.maximum([values - ends[0], ends[1] - values], 0)
            places = np.arange(len(rows)) + (number - (len(groups) - 1) / 2) * height
            bars = axes.barh(
                places, values, height, xerr=errors, color=COLORS[number], label=group,
                error_kw={"elinewidth": 1, "ecolor": "0.3"},
            )  # fmt: skip
            axes.bar_label(bars, [f"{value:.1f}" for value in values], label_type="center",
                           color="white", fontsize=9)  # fmt: skip
        better = "higher" if metric == "auroc" else "lower"
        axes.set(xlabel=f"{title}, % ({better} is better)", xlim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.title for row in rows])
    panels[0].invert_yaxis()
    panels[-1].legend(title="OOD", frameon=False, loc="lower right")
    return as_written(figure)
