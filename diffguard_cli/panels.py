"""Panels of an evaluation: some images of each set with their reconstructions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffguard.methods.items import Scored, items_of
from diffguard.methods.pictures import panel_rows
from diffguard.report import figures
from diffguard.report.panel import panel
from diffguard.score_table.table import ScoreTable
from diffguard.scores.fusion_rule import DIFFGUARD
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
            rows_of_panel = panel_rows(scoring.detector.models, images)
            yield f"panels/{dataset}", panel(rows_of_panel, dataset)


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
    scores = scoring.detector.stream(run.batch_size, unguided=True, skip="none")
    images: list[Scored] = []
    with run.precision():
        for batch in scoring.data.stream_loader(rest):
            images += scores.push(items_of(batch))
        images += scores.flush()
    order = {
        (table.dataset_names[table.dataset[r]], int(table.index[r])): i for i, r in enumerate(rows)
    }
    return sorted(images, key=lambda image: order[image.row.dataset, image.row.index])
