"""From the score table to results: metrics, intervals, comparisons, and the files that store them.

Everything here is a pure function of the table, so results can be computed again at any time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.report.bootstrap import EXACT_ROWS, auroc_draws, interval
from diffguard.report.metrics import compute_metrics
from diffguard.report.tables import to_markdown
from diffguard.report.terminal import print_table
from diffguard.score_table.cells import to_cell
from diffguard.score_table.table import ScoreTable
from diffguard.storage.files import replace_file

__all__ = [
    "METRICS",
    "OOD_GROUPS",
    "passes_per_image",
    "print_table",
    "summarise",
    "write_results",
]

OOD_GROUPS = ("near", "far")
METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Cell:
    """Figures of one score on one OOD set, or their mean over the sets of a group."""

    group: str
    n_ood: int
    metrics: dict[str, float]
    draws: Floats


def summarise(
    table: ScoreTable,
    groups: Mapping[str, str],
    *,
    score_names: Sequence[str] | None = None,
    comparisons: Iterable[tuple[str, str]] = (),
    cost: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    absent: Mapping[str, str] | None = None,
    seed: int = 0,
    draws: int = 1000,
    metrics: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Compute all results of a score table.

    Args:
        table: The merged score table. Rows with an error are counted and left out.
        groups: Set name -> `"id"` (one set), `"near"` or `"far"`; other sets are ignored.
        score_names: Which scores to report, in this order; all of the table by default.
        comparisons: Pairs (score, against) of reported scores, whose AUROC is compared on the same
            bootstrap draws.
        cost: Measurements of the caller, such as `images_per_second`; stored unchanged.
        settings: Configuration, versions and hashes of the run; stored unchanged.
        absent: OOD sets of the config that were missing, name -> reason; listed with the table.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
        metrics: (score, OOD set) -> its metrics, where processes have computed them together
            (`metric.synchronised_metrics`); otherwise they are computed here.

    Returns:
        The content of `results.json`: `rows` (per score, a row for each OOD set, then one for each
        group with unweighted means over its sets and the group's name as `dataset`), `id`,
        `comparisons`, `cost`, `absent` (sets left out, with the reason), `errors` (set -> images
        left out), `left_out` (which ones and why) and `settings`. Metrics are fractions in [0, 1],
        a difference is one of AUROC.

    Raises:
        UserError: If there is not exactly one ID set and at least one OOD set, or a set, a score or
            every image of a set is missing.
    """
    names, pairs = list(table.scores if score_names is None else score_names), list(comparisons)
    _check(table, groups, names, pairs)
    members = {
        group: sets
        for group in OOD_GROUPS
        if (sets := [name for name, other in groups.items() if other == group])
    }
    id_set = next(name for name, group in groups.items() if group == "id")
    id_rows = table.rows(id_set)
    id_values = _values(table, id_rows, names)

    # All sets share one path, because their means need the same draws of ID images.
    largest = max(len(table.rows(name)) for sets in members.values() for name in sets)
    exact = len(id_rows) + largest <= EXACT_ROWS

    cells: dict[tuple[str, str], _Cell] = {}
    for group, sets in members.items():
        for dataset in sets:
            rows = table.rows(dataset)
            values = _values(table, rows, names)
            curves = auroc_draws(id_values, values, dataset, draws=draws, seed=seed, exact=exact)
            for name, ident, ood, curve in zip(names, id_values, values, curves.T, strict=True):
                own = _metrics(ident, ood) if metrics is None else dict(metrics[name, dataset])
                cells[name, dataset] = _Cell(group, len(rows), own, curve)
        for name in names:
            cells[name, group] = _mean([cells[name, dataset] for dataset in sets])

    columns = [dataset for sets in members.values() for dataset in sets] + list(members)
    left_out = _left_out(table, groups)
    return {
        "rows": [
            _row(name, column, cells[name, column], len(id_rows))
            for name in names
            for column in columns
        ],
        "id": {
            "dataset": id_set,
            "n": len(id_rows),
            "accuracy": float((table.prediction[id_rows] == table.label[id_rows]).mean()),
        },
        "comparisons": [
            _compare(name, against, cells[name, group], cells[against, group])
            for name, against in pairs
            for group in members
        ],
        "cost": passes_per_image(table) | dict(cost or {}),
        "absent": dict(absent or {}),
        "errors": {name: sum(row["dataset"] == name for row in left_out) for name in groups},
        "left_out": left_out,
        "settings": dict(settings or {}),
    }


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`, `results.csv` (its rows) and `results.md` (its tables).

    Args:
        folder: Output folder; created if it is missing.
        results: What `summarise` returned.

    Raises:
        UserError: If the files cannot be written.
    """
    table = io.StringIO()
    rows = [_flatten(row) for row in results["rows"]]
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, text in {
        "results.json": json.dumps(results, indent=2, allow_nan=False) + "\n",
        "results.csv": table.getvalue(),
        "results.md": to_markdown(results),
    }.items():
        with replace_file(Path(folder) / name) as path:
            path.write_text(text, encoding="utf-8", newline="")


def _check(
    table: ScoreTable,
    groups: Mapping[str, str],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> None:
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
            f"{len(kinds) - kinds.count('id')}: name them in the data config"
        )
    for name in groups:
        if not len(table.rows(name)):
            raise UserError(
                f"the score table has no scored image of the set {name!r}: score it, or leave it "
                "out of the data config"
            )
    for name in names:
        if name not in table.scores:
            raise UserError(
                f"the score table has no score {name!r}: expected one of {', '.join(table.scores)}"
            )
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            raise UserError(
                f"cannot compare the score {name!r}: expected one of {', '.join(names)}"
            )


def _values(table: ScoreTable, rows: NDArray[np.intp], names: Sequence[str]) -> list[Floats]:
    # A set without unreadable images is one run of rows: a view then, as large tables fill memory.
    first, end = int(rows[0]), int(rows[-1]) + 1
    where = slice(first, end) if end - first == len(rows) else rows
    return [table.scores[name][where] for name in names]


def _metrics(id_scores: Floats, ood_scores: Floats) -> dict[str, float]:
    return compute_metrics(torch.from_numpy(id_scores), torch.from_numpy(ood_scores))


def _mean(cells: Sequence[_Cell]) -> _Cell:
    return _Cell(
        group=cells[0].group,
        n_ood=sum(cell.n_ood for cell in cells),
        metrics={name: float(np.mean([cell.metrics[name] for cell in cells])) for name in METRICS},
        draws=np.mean([cell.draws for cell in cells], axis=0),
    )


def _row(name: str, column: str, cell: _Cell, n_id: int) -> dict[str, Any]:
    return {
        "score": name,
        "dataset": column,
        "group": cell.group,
        "auroc": cell.metrics["auroc"],
        "auroc_ci95": list(interval(cell.draws)),
        **{metric: cell.metrics[metric] for metric in METRICS if metric != "auroc"},
        "n_id": n_id,
        "n_ood": cell.n_ood,
    }


def _compare(name: str, against: str, cell: _Cell, other: _Cell) -> dict[str, Any]:
    return {
        "score": name,
        "against": against,
        "group": cell.group,
        "difference": cell.metrics["auroc"] - other.metrics["auroc"],
        "ci95": list(interval(cell.draws - other.draws)),
    }


def passes_per_image(table: ScoreTable) -> dict[str, float]:
    """Mean `network_passes_per_image`; empty if no row records it."""
    passes = table.network_passes[table.valid & (table.network_passes >= 0)]
    return {"network_passes_per_image": float(passes.mean())} if len(passes) else {}


def _left_out(table: ScoreTable, groups: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = [
        {
            "dataset": table.dataset_names[table.dataset[row]],
            "index": int(table.index[row]),
            "path": table.path[int(row)],
            "error": table.error[row],
        }
        for row in np.flatnonzero(~table.valid)
    ]
    return [row for row in rows if row["dataset"] in groups]


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["auroc_ci95"]
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, str):
            flat[name] = to_cell(value)
            continue
        flat |= {"auroc_low": low, "auroc_high": high} if name == "auroc_ci95" else {name: value}
    return flat
