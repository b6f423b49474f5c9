"""From a scored run to results: metrics, intervals and comparisons.

Results follow from the score table alone, so they can be computed again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import norm

from diffguard.errors import UserError
from diffguard.report.bootstrap import DRAWS, interval
from diffguard.report.holm import holm
from diffguard.report.ood_results import Figures, FiguresTable, ood_results
from diffguard.report.scored_run import ScoredRun, passes_per_image
from diffguard.report.selective import id_results
from diffguard.report.stages import id_cost, stage_results

OOD_GROUPS = ("near", "far")


def summarize(
    run: ScoredRun,
    *,
    draws: int = DRAWS,
    metrics: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Compute all results of a scored run.

    Args:
        run: The run. Rows with an error are counted and left out; sets without a group are ignored.
        draws: Number of bootstrap draws.
        metrics: (score, OOD set) -> its metrics, if several processes have computed them together
            (`torch_metric.synchronized_metrics`); computed here by default.

    Returns:
        The content of `results.json`: `rows` (per score, a row for each OOD set, then one for each
        group with unweighted means over its sets and the group's name as `dataset`; see
        `ood_results.Figures` for the metrics), `id` (see `selective.id_results`), `comparisons`,
        `baselines` (see `opponents.Opponents`; None if the run does not record them), `stages`
        (see `stages.stage_results`), `cost`, `absent` (missing sets, with the reason), `errors`
        (set -> number of unreadable images), `left_out` (those images, with the reason) and
        `settings`. Metrics are fractions in [0, 1]. A comparison is a difference of AUROC on the
        same bootstrap draws, with a two-sided `p_value` and `holm`, the same after Holm's
        correction for all comparisons.

    Raises:
        UserError: If there is not exactly one ID set and at least one OOD set, a set has no scored
            image, or a score to compare is missing.
    """
    _check(run)
    table, id_set, members = run.table, _id_set(run), _members(run)
    figures = ood_results(run, id_set, members, draws, metrics)
    ident, left_out = id_results(run, id_set), _left_out(run)
    columns = [*(name for sets in members.values() for name in sets), *members]
    return {
        "rows": [
            _row(score, column, figures[score, column], ident["n"])
            for score in table.scores
            for column in columns
        ],
        "id": ident,
        "comparisons": _comparisons(run, figures),
        "baselines": None if run.opponents is None else run.opponents.as_plain(),
        "stages": stage_results(run),
        "cost": passes_per_image(table) | id_cost(run, id_set) | run.cost,
        "absent": dict(run.absent),
        "errors": {name: sum(row["dataset"] == name for row in left_out) for name in run.groups},
        "left_out": left_out,
        "settings": dict(run.settings),
    }


def _check(run: ScoredRun) -> None:
    table, groups = run.table, run.groups
    for name, group in groups.items():
        if group not in ("id", *OOD_GROUPS) or name in OOD_GROUPS:
            raise UserError(
                f"set {name!r} has the group {group!r}: expected a set, not itself called near or "
                "far, with the group id, near or far"
            )
    kinds = list(groups.values())
    if kinds.count("id") != 1 or len(kinds) < 2:
        raise UserError(
            f"OOD metrics need one ID set and at least one OOD set, got {kinds.count('id')} and "
            f"{len(kinds) - kinds.count('id')}: give each set a group"
        )
    for name in groups:
        if not len(table.rows(name)):
            raise UserError(
                f"the score table has no scored image of the set {name!r}: score it, or leave it "
                "out"
            )
    for name in (name for pair in run.comparisons for name in pair):
        if name not in table.scores:
            raise UserError(
                f"cannot compare the score {name!r}: expected one of {', '.join(table.scores)}"
            )


def _id_set(run: ScoredRun) -> str:
    return next(name for name, group in run.groups.items() if group == "id")


def _members(run: ScoredRun) -> dict[str, list[str]]:
    """The OOD sets of each group that has any, the near ones first."""
    members = {
        group: [name for name, other in run.groups.items() if other == group]
        for group in OOD_GROUPS
    }
    return {group: sets for group, sets in members.items() if sets}


def _row(score: str, column: str, figures: Figures, n_id: int) -> dict[str, Any]:
    return {
        "score": score,
        "dataset": column,
        "group": figures.group,
        **figures.row(),
        "n_id": n_id,
        "n_ood": figures.n_ood,
    }


def _comparisons(run: ScoredRun, figures: FiguresTable) -> list[dict[str, Any]]:
    rows = [
        _compare(score, against, group, figures)
        for score, against in run.comparisons
        for group in _members(run)
    ]
    adjusted = holm([row["p_value"] for row in rows])
    return [{**row, "holm": value} for row, value in zip(rows, adjusted, strict=True)]


def _compare(score: str, against: str, group: str, figures: FiguresTable) -> dict[str, Any]:
    first, second = figures[score, group], figures[against, group]
    difference, draws = first.auroc - second.auroc, first.draws["auroc"] - second.draws["auroc"]
    return {
        "score": score,
        "against": against,
        "group": group,
        "difference": difference,
        "ci95": list(interval(draws)),
        "p_value": _p_value(difference, float(draws.std(ddof=1))),
    }


def _p_value(difference: float, error: float) -> float:
    """Two-sided p-value of a normally distributed difference with a standard error."""
    if error == 0:
        return float(difference == 0)
    return float(2 * norm.sf(abs(difference) / error))


def _left_out(run: ScoredRun) -> list[dict[str, Any]]:
    table = run.table
    rows = [
        {
            "dataset": table.dataset_names[table.dataset[row]],
            "index": int(table.index[row]),
            "path": table.path[int(row)],
            "error": table.error[row],
        }
        for row in np.flatnonzero(~table.valid)
    ]
    return [row for row in rows if row["dataset"] in run.groups]
