"""What the loggers of an evaluation receive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from diffguard.report.overview import (
    GROUPS,
    METRICS,
    deciding_score,
    main_scores,
    summary_markdown,
)
from diffguard.report.results_log import ResultsLog
from diffguard.report.scored_run import ScoredRun
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION

# TensorBoard sorts groups by name and unfolds the first ones; only `classifier` precedes this one.
OVERVIEW = "detector"


def logged_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that loggers receive: those that can be compared between runs or scores.

    Args:
        results: The results, as `summary.summarize` returns them.

    Returns:
        `<near or far>/<metric>/<score>` of the main scores, such as `near/auroc/fusion`, all in
        [0, 1]. `DetectorModule` uses the same names.
    """
    main = main_scores(results)
    return {
        f"{row['dataset']}/{metric}/{row['score']}": row[metric]
        for row in results["rows"]
        if row["dataset"] in GROUPS and row["score"] in main
        for metric in METRICS
    }


def log_results(log: ResultsLog, run: ScoredRun, results: Mapping[str, Any]) -> None:
    """Give a logger everything but the figures.

    Args:
        log: The logger.
        run: The scored run.
        results: Its results.
    """
    metrics, decision = logged_metrics(results), deciding_score(results)
    main = dict.fromkeys([decision, *main_scores(results)])
    charts = {
        f"{title} ({group})": [
            name for score in main if (name := f"{group}/{metric}/{score}") in metrics
        ]
        for group in GROUPS
        for metric, title in METRICS.items()
    }
    compared = {
        name: metrics[name]
        for score in dict.fromkeys([decision, DIFFGUARD, FUSION])
        for names in charts.values()
        for name in names
        if name.split("/", 2)[2] == score
    }
    config = results["settings"].get("config", {})
    log.hyperparameters({**config, "seed": run.seed}, compared)
    log.metrics(metrics)
    log.text(f"{OVERVIEW}/summary", summary_markdown(results))
    log.layout({"Detector": {title: names for title, names in charts.items() if names}})
    for name, scores in run.table.scores.items():
        for dataset in run.groups:
            # The part of a name before `/` is a group of charts.
            title = f"scores_{name.replace('/', '.')}/{dataset}"
            log.histogram(title, scores[run.table.rows(dataset)])
    for curve, is_ood, ranks in _pr_curves(run):
        log.pr_curve(curve, is_ood, ranks)


def _pr_curves(run: ScoredRun) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """Name, labels and ranks of the curve of each headline score on each OOD set.

    The ranks in (0, 1] replace the scores, which have no common range: the curve is the same, and
    its thresholds lie at even shares of the images.
    """
    table = run.table
    sets = {name: table.rows(name) for name in run.groups}
    ident = next(sets[name] for name, group in run.groups.items() if group == "id")
    for score in run.headline:
        for dataset, group in run.groups.items():
            if group == "id":
                continue
            values = table.scores[score][np.concatenate([ident, sets[dataset]])]
            is_ood = np.arange(len(values)) >= len(ident)
            yield f"pr_{score}/{dataset}", is_ood, rankdata(values, method="max") / len(values)
