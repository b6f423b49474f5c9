"""Several scored runs of the same data as one table.

Rows are joined on (set, index). A score that several runs have with the same values stays one
column; if the values differ, each is suffixed with the name of its run, as in `diffguard (b)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffguard.errors import UserError
from diffguard.report.opponents import Opponents
from diffguard.report.scored_run import ScoredRun, Thresholds, passes_per_image
from diffguard.score_table.table import ScoreTable

Floats = NDArray[np.float64]


def join_runs(runs: Sequence[ScoredRun]) -> ScoredRun:
    """Join runs of the same images.

    If one run could not read an image, the image is left out for all, so that all scores are
    compared on the same images. Predictions, labels and groups come from the first run. Steps and
    network passes differ between runs and are recorded in `settings["runs"]`.

    Args:
        runs: One run or more.

    Returns:
        The joined run; a single run is returned unchanged.

    Raises:
        UserError: If the runs scored different data; names the first difference.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    tables = [first.table, *(_in_order_of(first, run) for run in runs[1:])]
    labels = run_labels([run.folder for run in runs])
    scores: dict[str, Floats] = {}
    calibration: dict[str, Tensor] = {}
    headline: dict[str, None] = {}
    comparisons: dict[tuple[str, str], None] = {}
    thresholds: dict[str, float] = {}
    costs: dict[str, dict[str, Any]] = {}
    apart = _differing_names(tables)
    for run, table, label in zip(runs, tables, labels, strict=True):
        names = {name: f"{name} ({label})" if name in apart else name for name in table.scores}
        for name, values in table.scores.items():
            scores.setdefault(names[name], values)
        for name, reference in run.calibration.items():
            if name in names:
                calibration.setdefault(names[name], reference)
        for name in names:
            if (threshold := run.threshold_of(name)) is not None:
                thresholds.setdefault(names[name], threshold)
        for row in run.cost.get("scores", ()):
            name = names[row["score"]]
            costs.setdefault(name, {**row, "score": name})
        headline |= dict.fromkeys(names[name] for name in run.headline)
        comparisons |= dict.fromkeys((names[a], names[b]) for a, b in run.comparisons)
    return replace(
        first,
        table=_joined(tables, scores),
        calibration=calibration,
        settings={"runs": [_about(run, label) for run, label in zip(runs, labels, strict=True)]},
        cost={"scores": list(costs.values())} if costs else {},
        headline=list(headline),
        comparisons=list(comparisons),
        remarks=_remarks(tables, labels),
        thresholds=_same_share(runs, thresholds),
        opponents=_same_opponents(runs),
    )


def run_labels(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: the last part of the paths in which all differ."""
    parts = [folder.resolve().parts[::-1] for folder in folders]
    for place in range(min(map(len, parts))):
        labels = [names[place] for names in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(number) for number in range(1, len(folders) + 1)]


def _differing_names(tables: Sequence[ScoreTable]) -> set[str]:
    """Names of scores whose values differ between tables."""
    differing = set()
    for name in {name for table in tables for name in table.scores}:
        first, *others = [table.scores[name] for table in tables if name in table.scores]
        if not all(np.array_equal(first, other, equal_nan=True) for other in others):
            differing.add(name)
    return differing


def _in_order_of(first: ScoredRun, run: ScoredRun) -> ScoreTable:
    """The table of a run, with its rows in the order of the first run.

    Raises:
        UserError: If the images differ.
    """
    _check_sets(first, run)
    reference, table = first.table, run.table
    code = {name: number for number, name in enumerate(reference.dataset_names)}
    codes = np.array([code.get(name, -1) for name in table.dataset_names], dtype=np.int32)
    dataset = codes[table.dataset]
    order = np.lexsort((table.index, dataset))
    expected = np.lexsort((reference.index, reference.dataset))
    place = np.empty_like(order)
    place[expected] = order
    ordered = ScoreTable(
        dataset_names=reference.dataset_names,
        dataset=dataset[place],
        index=table.index[place],
        path=[table.path[row] for row in place],
        label=table.label[place],
        prediction=table.prediction[place],
        probability=table.probability[place],
        scores={name: values[place] for name, values in table.scores.items()},
        stage=table.stage[place],
        stop_step=table.stop_step[place],
        network_passes=table.network_passes[place],
        error=table.error[place],
    )
    for what, ours, theirs in (
        ("set", reference.dataset, ordered.dataset),
        ("index", reference.index, ordered.index),
        ("label", reference.label, ordered.label),
        ("path", _objects(reference.path), _objects(ordered.path)),
    ):
        differing = np.flatnonzero(ours != theirs)
        if len(differing):
            row = differing[0]
            image = _image_name(reference, row)
            raise _other_data(first, run, f"the {what} of {image} is {ours[row]!s}", theirs[row])
    if first.contents is not None and run.contents is not None:
        other = run.contents[place] != first.contents
        differing = np.flatnonzero(other & reference.valid & ordered.valid)
        if len(differing):
            row = differing[0]
            image = _image_name(reference, row)
            raise _other_data(first, run, f"{image} is one file", "another with the same path")
    return ordered


def _image_name(table: ScoreTable, row: int) -> str:
    return f"{table.dataset_names[table.dataset[row]]} image {table.index[row]}"


def _check_sets(first: ScoredRun, run: ScoredRun) -> None:
    if run.folder.resolve() == first.folder.resolve():
        raise UserError(f"{run.folder} is named twice: name each run once")
    for what, ours, theirs in (("group", first.groups, run.groups), ("set", first.sets, run.sets)):
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                text = f"the {what} {name} is {ours.get(name, 'absent')}"
                raise _other_data(first, run, text, theirs.get(name, "absent"))
    if len(first.table) != len(run.table):
        raise _other_data(first, run, f"the table has {len(first.table)} rows", len(run.table))


def _other_data(first: ScoredRun, run: ScoredRun, here: str, there: object) -> UserError:
    return UserError(
        f"{run.folder} and {first.folder} scored different data: {here} in the latter, {there} in "
        "the former; join runs that scored the same images"
    )


def _objects(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array(list(texts), dtype=object)


def _joined(tables: Sequence[ScoreTable], scores: dict[str, Floats]) -> ScoreTable:
    error = tables[0].error.copy()
    for table in tables[1:]:
        error = np.where(error == "", table.error, error)
    none = np.full(len(error), -1, dtype=np.int32)
    return replace(
        tables[0],
        scores=scores,
        error=error,
        stage=none,
        stop_step=none.copy(),
        network_passes=none.copy(),
    )


def _about(run: ScoredRun, label: str) -> dict[str, Any]:
    identifier = next(name for name, group in run.groups.items() if group == "id")
    rows = run.table.rows(identifier)
    accuracy = float((run.table.prediction[rows] == run.table.label[rows]).mean())
    cost = {**passes_per_image(run.table), **run.cost}
    about = {"name": label, "folder": str(run.folder), "accuracy": accuracy}
    return {**about, "cost": cost, "settings": run.settings}


def _same_share(runs: Sequence[ScoredRun], scores: Mapping[str, float]) -> Thresholds | None:
    """The thresholds of all runs, if all were calibrated for the same share."""
    shares = {None if run.thresholds is None else run.thresholds.accept for run in runs}
    accept = shares.pop()
    return None if shares or accept is None else Thresholds(accept, scores)


def _same_opponents(runs: Sequence[ScoredRun]) -> Opponents | None:
    """The baselines of the runs, if they are the same with the same results on validation."""
    first = runs[0].opponents
    return first if all(run.opponents == first for run in runs) else None


def _remarks(tables: Sequence[ScoreTable], labels: Sequence[str]) -> list[str]:
    remarks = []
    for table, label in zip(tables[1:], labels[1:], strict=True):
        both = tables[0].valid & table.valid
        other = int((tables[0].prediction != table.prediction)[both].sum())
        if other:
            remarks.append(
                f"{label} predicts another class than {labels[0]} for {other:,} images, so the "
                f"classifiers differ; the accuracy is that of {labels[0]}"
            )
    return remarks
