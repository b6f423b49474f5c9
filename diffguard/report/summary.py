"""From a scored run to results: metrics, intervals and comparisons.

Results follow from the score table alone, so they can be computed again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.report.bootstrap import EXACT_ROWS, auroc_draws, interval
from diffguard.report.metrics import METRICS, compute_metrics
from diffguard.report.scored_run import ScoredRun, passes_per_image
from diffguard.score_table.table import ScoreTable

OOD_GROUPS = ("near", "far")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Figures:
    """Figures of one score on one OOD set, or their mean over the sets of a group.

    Attributes:
        group: `near` or `far`.
        n_ood: Number of OOD images.
        metrics: Metric -> value in [0, 1].
        draws: `(draws,)` AUROC of the bootstrap draws.
    """

    group: str
    n_ood: int
    metrics: Mapping[str, float]
    draws: Floats


# (score, OOD set or group) -> its figures.
_Table = dict[tuple[str, str], _Figures]


def summarize(
    run: ScoredRun,
    *,
    draws: int = 1000,
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
        group with unweighted means over its sets and the group's name as `dataset`), `id`,
        `comparisons`, `cost`, `absent` (missing sets, with the reason), `errors` (set -> number of
        unreadable images), `left_out` (those images, with the reason) and `settings`. Metrics are
        fractions in [0, 1]; a comparison is a difference of AUROC on the same bootstrap draws.

    Raises:
        UserError: If there is not exactly one ID set and at least one OOD set, a set has no scored
            image, or a score to compare is missing.
    """
    _check(run)
    figures = _measure(run, draws, metrics)
    table, id_set = run.table, _id_set(run)
    rows, left_out = table.rows(id_set), _left_out(run)
    members = _members(run)
    columns = [*(name for sets in members.values() for name in sets), *members]
    return {
        "rows": [
            _row(score, column, figures[score, column], len(rows))
            for score in table.scores
            for column in columns
        ],
        "id": {
            "dataset": id_set,
            "n": len(rows),
            "accuracy": float((table.prediction[rows] == table.label[rows]).mean()),
        },
        "comparisons": [
            _compare(score, against, group, figures)
            for score, against in run.comparisons
            for group in members
        ],
        "cost": passes_per_image(table) | run.cost,
        "absent": dict(run.absent),
        "errors": {name: sum(row["dataset"] == name for row in left_out) for name in run.groups},
        "left_out": left_out,
        "settings": dict(run.settings),
    }


def logged_values(results: Mapping[str, Any]) -> dict[str, float]:
    """The values that loggers get, with the names that `DetectorModule` uses.

    Args:
        results: Output of `summarize`.

    Returns:
        `<set or group>/<metric>/<score>`, such as `near/auroc/fusion`, and `<ID set>/accuracy`.
    """
    values = {
        f"{row['dataset']}/{metric}/{row['score']}": row[metric]
        for row in results["rows"]
        for metric in METRICS
    }
    return {**values, f"{results['id']['dataset']}/accuracy": results["id"]["accuracy"]}


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


def _measure(
    run: ScoredRun, draws: int, metrics: Mapping[tuple[str, str], Mapping[str, float]] | None
) -> _Table:
    """The figures of every score on every OOD set and group."""
    table, members = run.table, _members(run)
    id_rows = table.rows(_id_set(run))
    id_values = _values(table, id_rows)
    # All sets are drawn alike, because their means need the same draws of ID images.
    largest = max(len(table.rows(name)) for sets in members.values() for name in sets)
    exact = len(id_rows) + largest <= EXACT_ROWS

    figures: _Table = {}
    for group, sets in members.items():
        for dataset in sets:
            rows = table.rows(dataset)
            values = _values(table, rows)
            curves = auroc_draws(
                id_values, values, dataset, draws=draws, seed=run.seed, exact=exact
            )
            for score, ident, ood, curve in zip(
                table.scores, id_values, values, curves.T, strict=True
            ):
                result = _metrics(ident, ood) if metrics is None else metrics[score, dataset]
                figures[score, dataset] = _Figures(group, len(rows), result, curve)
        for score in table.scores:
            figures[score, group] = _mean([figures[score, dataset] for dataset in sets])
    return figures


def _values(table: ScoreTable, rows: NDArray[np.intp]) -> list[Floats]:
    # A set without unreadable images is one run of rows; its view needs no memory.
    first, end = int(rows[0]), int(rows[-1]) + 1
    where = slice(first, end) if end - first == len(rows) else rows
    return [values[where] for values in table.scores.values()]


def _metrics(id_scores: Floats, ood_scores: Floats) -> dict[str, float]:
    return compute_metrics(torch.from_numpy(id_scores), torch.from_numpy(ood_scores))


def _mean(parts: list[_Figures]) -> _Figures:
    return _Figures(
        group=parts[0].group,
        n_ood=sum(part.n_ood for part in parts),
        metrics={name: float(np.mean([part.metrics[name] for part in parts])) for name in METRICS},
        draws=np.mean([part.draws for part in parts], axis=0),
    )


def _row(score: str, column: str, figures: _Figures, n_id: int) -> dict[str, Any]:
    return {
        "score": score,
        "dataset": column,
        "group": figures.group,
        "auroc": figures.metrics["auroc"],
        "auroc_ci95": list(interval(figures.draws)),
        **{metric: figures.metrics[metric] for metric in METRICS if metric != "auroc"},
        "n_id": n_id,
        "n_ood": figures.n_ood,
    }


def _compare(score: str, against: str, group: str, figures: _Table) -> dict[str, Any]:
    first, second = figures[score, group], figures[against, group]
    return {
        "score": score,
        "against": against,
        "group": group,
        "difference": first.metrics["auroc"] - second.metrics["auroc"],
        "ci95": list(interval(first.draws - second.draws)),
    }


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
