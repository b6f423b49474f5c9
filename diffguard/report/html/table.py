"""The results as a table of the page: a row per score; near and far sets unfold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffguard.report.score_costs import cost_text, costs_of
from diffguard.report.tables import COST_TITLE, percent, score_names


@dataclass(frozen=True)
class Metric:
    """A metric of the results: its key, its heading, digits, and whether higher is better."""

    key: str
    head: str
    digits: int = 1
    higher: bool = True


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        group: `id`, `near`, `far` or `cost`.
        dataset: The set, or the name of the group for its mean.
        metric: The metric.
        is_mean: Whether it is the mean of a group; the columns of its sets are folded at first.
    """

    group: str
    dataset: str
    metric: Metric
    is_mean: bool


@dataclass(frozen=True)
class Cell:
    """A value, its text, its 95% interval as text, and whether it is set in bold."""

    value: float | None
    text: str
    interval: str
    is_best: bool


@dataclass(frozen=True)
class View:
    """One choice of metrics.

    Attributes:
        name: What the reader chooses.
        columns: The columns.
        rows: Score -> its cells.
    """

    name: str
    columns: Sequence[Column]
    rows: Mapping[str, Sequence[Cell]]

    @property
    def groups(self) -> list[tuple[str, str, bool, int]]:
        """(group, set, whether it is a mean, number of columns) of neighboring columns."""
        counts: dict[tuple[str, str, bool], int] = {}
        for column in self.columns:
            key = (column.group, column.dataset, column.is_mean)
            counts[key] = counts.get(key, 0) + 1
        return [(*key, count) for key, count in counts.items()]


_AUROC = Metric("auroc", "AUROC", 2)
_FPR_ID = Metric("fpr95_id_positive", "FPR@95", higher=False)
_VIEWS: dict[str, tuple[Metric, ...]] = {
    "AUROC and FPR@95": (_AUROC, _FPR_ID),
    "FPR@95 of both conventions": (
        Metric("fpr95_id_positive", "ID accepted", higher=False),
        Metric("fpr95_ood_positive", "OOD detected", higher=False),
    ),
    "AUPR": (Metric("aupr_in", "ID positive"), Metric("aupr_out", "OOD positive")),
    "At the threshold": (Metric("ood_flagged", "flagged"),),
}
_ID_METRICS = (
    Metric("accepted", "accepted"),
    Metric("accepted_right", "accepted if right"),
    Metric("accepted_wrong", "accepted if wrong", higher=False),
    Metric("accuracy_accepted", "accuracy of accepted", 2),
    Metric("aurc", "AURC", 2, higher=False),
)

_COST_METRICS = (
    Metric("classifier_passes", "classifier passes", higher=False),
    Metric("gradients", "classifier gradients", higher=False),
    Metric("diffusion_passes", "diffusion passes", higher=False),
    Metric("milliseconds", "ms", higher=False),
)


def views(results: Mapping[str, Any], main_scores: Sequence[str]) -> list[View]:
    """The tables of results, one per choice of metrics.

    Args:
        results: The results, as `summary.summarize` returns them.
        main_scores: The scores that are shown at first.
    """
    names = score_names(results)
    values = {(row["score"], row["dataset"]): row for row in results["rows"]}
    ident = {row["score"]: row for row in results["id"]["scores"]}
    sets = _sets(results)
    made = []
    for name, metrics in _VIEWS.items():
        columns = [
            Column(group, dataset, metric, is_mean=group == dataset)
            for group, dataset in sets
            for metric in metrics
        ]
        rows_of = {column: [values[n, column.dataset] for n in names] for column in columns}
        if name == "At the threshold":
            extra = [Column("id", results["id"]["dataset"], m, is_mean=True) for m in _ID_METRICS]
            rows_of = {column: [ident[n] for n in names] for column in extra} | rows_of
        is_main = [name in main_scores for name in names]
        cells = {column: _cells(rows, column.metric, is_main) for column, rows in rows_of.items()}
        cells = {c: parts for c, parts in cells.items() if any(p.value is not None for p in parts)}
        if cells:
            rows = {n: [parts[place] for parts in cells.values()] for place, n in enumerate(names)}
            made.append(View(name, list(cells), rows))
    return [*made, *_cost_views(results, names)]


def _cost_views(results: Mapping[str, Any], names: Sequence[str]) -> list[View]:
    """The cost of each score; empty if the run did not record it."""
    costs = costs_of(results)
    if not costs:
        return []
    columns = [Column("cost", COST_TITLE, metric, is_mean=True) for metric in _COST_METRICS]
    rows = {
        name: [_cost_cell(costs.get(name, {}).get(metric.key)) for metric in _COST_METRICS]
        for name in names
    }
    return [View(COST_TITLE, columns, rows)]


def _cost_cell(value: float | None) -> Cell:
    return Cell(value, "–" if value is None else cost_text(value), "", is_best=False)


def _sets(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(group, set) of the results, each group's mean before its sets."""
    pairs = dict.fromkeys((row["group"], row["dataset"]) for row in results["rows"])
    groups = dict.fromkeys(group for group, _ in pairs)
    return [
        pair
        for group in groups
        for pair in sorted(pairs, key=lambda pair: pair[0] != pair[1])
        if pair[0] == group
    ]


def _cells(
    rows: Sequence[Mapping[str, Any]], metric: Metric, is_main: Sequence[bool]
) -> list[Cell]:
    """The cells of a column; the best of all scores and the best of the main scores are bold."""
    numbers = [row[metric.key] for row in rows]
    best = _best(numbers, metric)
    best_main = _best([n for n, main in zip(numbers, is_main, strict=True) if main], metric)
    return [
        Cell(
            value=number,
            text="–" if number is None else percent(number, metric.digits),
            interval=_interval(row, metric),
            is_best=number is not None and (number == best or (main and number == best_main)),
        )
        for row, number, main in zip(rows, numbers, is_main, strict=True)
    ]


def _best(numbers: Sequence[float | None], metric: Metric) -> float | None:
    finite = [number for number in numbers if number is not None]
    return (max if metric.higher else min)(finite, default=None)


def _interval(row: Mapping[str, Any], metric: Metric) -> str:
    bounds = row.get(f"{metric.key}_ci95")
    return "" if bounds is None else "–".join(percent(value, metric.digits) for value in bounds)
