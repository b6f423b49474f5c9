"""Pictures of scored images: their inputs, and their reconstructions, which are made again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from datamodules.evaluation_stream import EvaluationStream
from diffguard.methods.items import Item, Scored, items_of
from diffguard.methods.pictures import panel_rows
from diffguard.report.candidates import even_sample
from diffguard.report.cases import Cases
from diffguard.report.html.thumbnail_file import read_thumbnails
from diffguard.report.html.thumbnails import SMALL_SIDE, Thumbnail, thumbnails
from diffguard.report.panel import PanelRow
from diffguard.score_table.rows import ScoreRow
from diffguard.score_table.table import ScoreTable
from diffguard_cli.finished_run import FinishedRun
from diffguard_cli.scoring import ScoringRun

# Images that are reconstructed at once; their states are in memory together.
_AT_ONCE = 64

Rows = NDArray[np.intp]


class Pictures:
    """Makes pictures of the images of a run.

    Args:
        scoring: The scoring run.
        run: Its result.
        table: Its merged table.
    """

    def __init__(self, scoring: ScoringRun, run: FinishedRun, table: ScoreTable) -> None:
        self.scoring, self.run, self.table = scoring, run, table
        self._places = {pair: place for place, pair in enumerate(scoring.stream.pairs())}

    @property
    def sample(self) -> Rows:
        """Rows of the table whose images may be shown although their verdict is correct."""
        pairs = even_sample(self.scoring.stream.pairs())
        rows = np.arange(len(self.table.index))
        return rows[[pair in pairs for pair in self._pairs(rows)]]

    def thumbnails(self, rows: Rows) -> Iterator[tuple[int, list[Thumbnail]]]:
        """Rows of the table with their pictures: input, CAM, and the reconstructions on disk.

        A run without the diffusion model has pictures of the input alone, which need no network.
        """
        pairs = self._pairs(rows)
        redrawn = read_thumbnails(self.scoring.folder, pairs)
        for row, pair, picture in zip(rows.tolist(), pairs, self._inputs(rows), strict=True):
            yield row, [*thumbnails(picture, SMALL_SIDE), *redrawn.get(pair, ())]

    def _inputs(self, rows: Rows) -> Iterator[PanelRow]:
        detector = self.scoring.detector
        names, name = detector.classifier.class_names, detector.decision
        places = iter(rows.tolist())
        for batch in self.scoring.data.stream_loader(self._stream(rows)):
            images = [self._scored(item, next(places)) for item in items_of(batch)]
            if self.scoring.selection.skip != "all":
                yield from panel_rows(detector.models, images, name)
                continue
            for image in images:
                row = image.row
                label = names[int(row.prediction or 0)]
                yield PanelRow(image.item.image, None, label, row.scores[name], row.dataset)

    def _scored(self, item: Item, row: int) -> Scored:
        """An image with its row of the table, but without a reconstruction."""
        table, name = self.table, self.scoring.detector.decision
        scores, prediction = {name: float(table.scores[name][row])}, int(table.prediction[row])
        return Scored(
            item,
            ScoreRow(item.dataset, item.index, item.path, item.label, prediction, scores=scores),
            None,
        )

    def reconstructions(self, rows: Rows) -> Iterator[tuple[int, PanelRow]]:
        """Rows of the table with all pictures, including the unguided reconstruction."""
        detector = self.scoring.detector
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            images = self._reconstruct(part)
            pictures = panel_rows(detector.models, images, detector.decision)
            yield from zip(part.tolist(), pictures, strict=True)

    def panels(self, choices: list[Cases]) -> list[tuple[Cases, list[PanelRow]]]:
        """Each choice of images with its panel's rows."""
        if not choices:
            return []
        rows = np.unique(np.concatenate([cases.rows for cases in choices]))
        pictures = dict(self.reconstructions(rows))
        return [(cases, [pictures[row] for row in cases.rows.tolist()]) for cases in choices]

    def _reconstruct(self, rows: Rows) -> list[Scored]:
        pairs = {pair: place for place, pair in enumerate(self._pairs(rows))}
        scores = self.scoring.detector.stream(self.run.batch_size, unguided=True, skip="none")
        images: list[Scored] = []
        with self.run.precision():
            for batch in self.scoring.data.stream_loader(self._stream(rows)):
                images += scores.push(items_of(batch))
            images += scores.flush()
        return sorted(images, key=lambda image: pairs[image.row.dataset, image.row.index])

    def _stream(self, rows: Rows) -> EvaluationStream:
        stream = self.scoring.stream
        places = [self._places[pair] for pair in self._pairs(rows)]
        return stream.only(stream.select[np.array(places, dtype=np.intp)])

    def _pairs(self, rows: Rows) -> list[tuple[str, int]]:
        table = self.table
        return [(table.dataset_names[table.dataset[row]], int(table.index[row])) for row in rows]
