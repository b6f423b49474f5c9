"""Metrics of every score on every OOD set and group, with their bootstrap draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.report import bootstrap
from diffguard.report.bootstrap import Bootstrap, interval
from diffguard.report.metrics import METRICS, auroc, compute_metrics
from diffguard.report.scored_run import ScoredRun
from diffguard.report.selective import share
from diffguard.score_table.table import ScoreTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Figures of one score on one OOD set, or their mean over the sets of a group.

    Attributes:
        group: `near` or `far`.
        n_ood: Number of OOD images.
        values: Metric -> value in [0, 1], or None if it does not exist: those of `METRICS`;
            `ood_flagged`, the share above the threshold; `auroc_right` and `auroc_wrong`, the AUROC
            against the ID images that the classifier gets right and wrong.
        draws: Metric -> `(draws,)` of the bootstrap.
    """

    group: str
    n_ood: int
    values: Mapping[str, float | None]
    draws: Mapping[str, Floats]

    @property
    def auroc(self) -> float:
        """The AUROC, which always exists."""
        value = self.values["auroc"]
        assert value is not None
        return value

    def row(self) -> dict[str, Any]:
        """The values; those with bootstrap draws are followed by their 95% intervals."""
        row: dict[str, Any] = {}
        for name, value in self.values.items():
            row[name] = value
            if name in self.draws:
                row[f"{name}_ci95"] = list(interval(self.draws[name]))
        return row


# (score, OOD set or group) -> its figures.
FiguresTable = dict[tuple[str, str], Figures]


def ood_results(
    run: ScoredRun,
    id_set: str,
    members: Mapping[str, Sequence[str]],
    draws: int,
    metrics: Mapping[tuple[str, str], Mapping[str, float]] | None,
) -> FiguresTable:
    """The figures of every score on every OOD set and group.

    Args:
        run: The scored run.
        id_set: Name of its ID set.
        members: Group -> its OOD sets.
        draws: Number of bootstrap draws.
        metrics: (score, OOD set) -> the metrics of `METRICS`, if they are computed already.
    """
    table = run.table
    id_rows = table.rows(id_set)
    id_values = _values(table, id_rows)
    right = table.prediction[id_rows] == table.label[id_rows]
    largest = max(len(table.rows(name)) for sets in members.values() for name in sets)
    resampling = Bootstrap(id_values, largest, draws=draws, seed=run.seed)
    figures: FiguresTable = {}
    for group, sets in members.items():
        for dataset in sets:
            ood_values = _values(table, table.rows(dataset))
            samples = resampling.draws(ood_values, dataset)
            for place, score in enumerate(table.scores):
                ident, ood = id_values[place], ood_values[place]
                values = _metrics(ident, ood) if metrics is None else metrics[score, dataset]
                threshold = run.threshold_of(score)
                figures[score, dataset] = Figures(
                    group,
                    len(ood),
                    {
                        **{name: values[name] for name in METRICS},
                        "ood_flagged": None if threshold is None else share(ood > threshold),
                        "auroc_right": _auroc(ident[right], ood),
                        "auroc_wrong": _auroc(ident[~right], ood),
                    },
                    {name: samples[name][:, place] for name in bootstrap.METRICS},
                )
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


def _auroc(id_scores: Floats, ood_scores: Floats) -> float | None:
    if not len(id_scores):
        return None
    return auroc(torch.from_numpy(id_scores), torch.from_numpy(ood_scores))


def _mean(parts: Sequence[Figures]) -> Figures:
    values: dict[str, float | None] = {}
    for name in parts[0].values:
        numbers = [part.values[name] for part in parts]
        present = [number for number in numbers if number is not None]
        values[name] = float(np.mean(present)) if len(present) == len(parts) else None
    return Figures(
        group=parts[0].group,
        n_ood=sum(part.n_ood for part in parts),
        values=values,
        draws={n: np.mean([part.draws[n] for part in parts], axis=0) for n in parts[0].draws},
    )
