"""Figures of the results in short: AUROC and FPR@95 of the main scores, and a cascade's stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from diffguard.report.figures import COLORS, as_written
from diffguard.report.overview import METRICS, headline, short_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def at_a_glance(results: Mapping[str, Any]) -> Figure:
    """Values with 95% intervals: a panel per metric, a row per score, a color per group.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    from matplotlib.figure import Figure

    rows = short_rows(results)
    groups = list(rows[0].groups)
    figure = Figure(figsize=(7.0, 2.0 + 0.5 * len(rows)), layout="constrained")
    figure.suptitle(headline(results), fontsize=12, wrap=True)
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for number, group in enumerate(groups):
            lines = [row.groups[group] for row in rows]
            values = 100 * np.array([line[metric] for line in lines])
            ends = 100 * np.array([line[f"{metric}_ci95"] for line in lines]).T
            # The interval of a bootstrap may lie on one side of the value.
            errors = np.maximum([values - ends[0], ends[1] - values], 0)
            places = np.arange(len(rows)) + 0.4 * (number - (len(groups) - 1) / 2)
            axes.errorbar(values, places, xerr=errors, fmt="os"[number], color=COLORS[number],
                          capsize=3, label=f"{group} OOD")  # fmt: skip
            for value, place in zip(values, places, strict=True):
                axes.annotate(f"{value:.1f}", (value, place), (0, 4), textcoords="offset points",
                              ha="center", fontsize=8)  # fmt: skip
        better = "higher" if metric == "auroc" else "lower"
        axes.set_xlabel(f"{title}, % ({better} is better)")
        axes.margins(x=0.12, y=0.12)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.title.replace(" = ", " =\n") for row in rows])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=len(groups), frameon=False,
                  loc="outside lower center")  # fmt: skip
    return as_written(figure)


def stage_shares(results: Mapping[str, Any]) -> Figure:
    """Bars of the share of each set that each stage of a cascade accepts and flags.

    Args:
        results: The results of a cascade with thresholds.
    """
    from matplotlib.figure import Figure

    rows = {(row["dataset"], row["stage"]): row for row in results["stages"]}
    sets, stages = (list(dict.fromkeys(keys)) for keys in zip(*rows, strict=True))
    figure = Figure(figsize=(7.0, 1.6 + 0.5 * len(sets)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(sets))
    for number, stage in enumerate(stages):
        for verdict, alpha in (("accepted", 0.45), ("flagged", 1.0)):
            shares = 100 * np.array([rows[name, stage][verdict] for name in sets])
            label = f"{verdict} by stage {stage}"
            axes.barh(sets, shares, 0.6, left, color=COLORS[number], alpha=alpha, label=label)
            left += shares
    axes.invert_yaxis()
    axes.set(xlabel="share of the set, %", xlim=(0, 100))
    axes.set_title("fusion, stage 1: baselines, stage 2: with the diffusion model", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(ncols=2, frameon=False, loc="outside lower center")
    return as_written(figure)
