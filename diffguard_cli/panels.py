"""Panels of an evaluation: some images of each set with their reconstructions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffguard.detector import Detector
from diffguard.methods.items import Scored, items_of
from diffguard.report import figures
from diffguard.score_table.table import ScoreTable
from diffguard.scores.calibration import DIFFGUARD
from diffguard_cli.scoring import FinishedRun, ScoringRun


def panels(
    scoring: ScoringRun, run: FinishedRun, table: ScoreTable, count: int
) -> Iterator[tuple[str, figures.Figure]]:
    """A panel per set.

    Args:
        scoring: The scoring run.
        run: Its result.
        table: Its merged table.
        count: Images per panel; 0 draws none.

    Yields:
        Name and figure.
    """
    for dataset in scoring.data.groups if count else ():
        rows = _spread(table, dataset, count)
        if len(rows):
            images = reconstruct(scoring, run, table, rows)
            yield f"panels/{dataset}", figures.panel(panel_rows(scoring.detector, images), dataset)


def _spread(table: ScoreTable, dataset: str, count: int) -> np.ndarray:
    """Rows of a set at evenly spaced ranks of the `diffguard` score, in ascending order."""
    rows = table.rows(dataset)
    ordered = rows[np.argsort(table.scores[DIFFGUARD][rows], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
    return ordered[places.round().astype(int)]


def reconstruct(
    scoring: ScoringRun, run: FinishedRun, table: ScoreTable, rows: np.ndarray
) -> list[Scored]:
    """Reconstruct the images of some rows again, both guided and unguided."""
    targets = {(table.dataset_names[table.dataset[r]], int(table.index[r])) for r in rows}
    stream = scoring.stream
    rest = stream.without(set(stream.pairs()) - targets)
    scores = scoring.detector.stream(run.batch_size, unguided=True)
    images: list[Scored] = []
    with run.precision():
        for batch in scoring.data.stream_loader(rest):
            images += scores.push(items_of(batch))
        images += scores.flush()
    order = {
        (table.dataset_names[table.dataset[r]], int(table.index[r])): i for i, r in enumerate(rows)
    }
    return sorted(images, key=lambda image: order[image.row.dataset, image.row.index])


def panel_rows(detector: Detector, images: list[Scored]) -> list[figures.PanelRow]:
    """The panel's row of each image; images without a reconstruction are left out."""
    names = detector.classifier.class_names
    rows = []
    for image in images:
        result, row = image.reconstruction, image.row
        if result is None or row.prediction is None:
            continue
        mask = result.job.mask
        rows.append(
            figures.PanelRow(
                image=result.job.image.cpu(),
                guided=result.guided.cpu(),
                unguided=None if result.unguided is None else result.unguided.cpu(),
                mask=None if mask is None else mask.cpu(),
                dataset=row.dataset,
                prediction=names[row.prediction],
                score=row.scores[DIFFGUARD],
            )
        )
    return rows
