"""Panels of an evaluation: some images of each set with their reconstructions."""

from __future__ import annotations

import numpy as np

from diffguard.methods.items import Scored, items_of
from diffguard.methods.pictures import panel_rows
from diffguard.report.cases import Cases, choose_cases
from diffguard.report.panel import PanelRow
from diffguard.score_table.table import ScoreTable
from diffguard_cli.scoring import FinishedRun, ScoringRun


def panels(
    scoring: ScoringRun, run: FinishedRun, table: ScoreTable, threshold: float | None, count: int
) -> list[tuple[Cases, list[PanelRow]]]:
    """Typical images of each set and the hardest mistakes, with their reconstructions.

    Args:
        scoring: The scoring run.
        run: Its result.
        table: Its merged table.
        threshold: The score above which an image is OOD, if there is one.
        count: Images per panel; 0 draws none.

    Returns:
        Each choice of images with its panel rows. All images are reconstructed together.
    """
    decision = scoring.detector.decision
    choices = choose_cases(table, scoring.data.groups, decision, threshold, count)
    if not choices:
        return []
    rows = np.unique(np.concatenate([cases.rows for cases in choices]))
    pictures = panel_rows(scoring.detector.models, reconstruct(scoring, run, table, rows), decision)
    picture_of = dict(zip(rows.tolist(), pictures, strict=True))
    return [(cases, [picture_of[row] for row in cases.rows.tolist()]) for cases in choices]


def reconstruct(
    scoring: ScoringRun, run: FinishedRun, table: ScoreTable, rows: np.ndarray
) -> list[Scored]:
    """Reconstruct the images of some rows again, both guided and unguided."""
    places = {
        (table.dataset_names[table.dataset[row]], int(table.index[row])): place
        for place, row in enumerate(rows)
    }
    stream = scoring.stream
    targets = stream.only(stream.select[stream.among(places.keys())])
    scores = scoring.detector.stream(run.batch_size, unguided=True, skip="none")
    images: list[Scored] = []
    with run.precision():
        for batch in scoring.data.stream_loader(targets):
            images += scores.push(items_of(batch))
        images += scores.flush()
    return sorted(images, key=lambda image: places[image.row.dataset, image.row.index])
