"""How far an evaluation is over all its processes, read from the tables that they append to.

The first process alone looks, and only when it is time to show something; what it finds goes to
the screen and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer

from diffguard.score_table.encoding import complete_records, decode_row, rank_tables
from diffguard.score_table.rows import TAIL_COLUMNS
from lightning_modules.callbacks.training_bar import StageProgressBar

# From the end, where the seal comes last.
_STOP_STEP = TAIL_COLUMNS.index("stop_step") - len(TAIL_COLUMNS) - 1
_LINE_SECONDS = 60.0


class TableTail:
    """Counts the rows in the tables of an evaluation folder, reading every byte once.

    Args:
        folder: The evaluation folder.

    Attributes:
        rows: Complete rows so far, of all processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[Path, int] = {}
        self.rows = 0
        self._stopped, self._steps = 0, 0

    def read(self) -> None:
        """Count what was appended since."""
        for path in rank_tables(self._folder):
            known = self._ends.get(path, 0)
            for offset, record in complete_records(path, known):
                self._ends[path] = offset + len(record)
                if offset:  # at 0 there is the header
                    self._count(decode_row(record, path)[_STOP_STEP])

    def _count(self, stop_step: str) -> None:
        self.rows += 1
        if stop_step:
            self._stopped += 1
            self._steps += int(stop_step)

    @property
    def mean_depth(self) -> float | None:
        """Inversion steps after which images stopped, on average; None before the first."""
        return self._steps / self._stopped if self._stopped else None


class ScoringProgressBar(StageProgressBar):
    """Images done of all, rate, time left and depth so far, over all processes.

    Args:
        title: See `StageProgressBar`.
        line_seconds: See `StageProgress`.
        **options: See `StageProgressBar`.
    """

    def __init__(self, title: str, line_seconds: float = _LINE_SECONDS, **options: Any) -> None:
        super().__init__(title, line_seconds, **options)
        self._tail: TableTail | None = None
        self._total = 0
        self._rows_before = 0
        self._began = 0.0

    def watch(self, folder: Path, total: int) -> None:
        """Name the evaluation folder, and how many images it shall hold."""
        self._tail, self._total = TableTail(folder), total

    def on_test_start(self, *_: Any) -> None:
        """Begin with the images that were scored before."""
        if self._tail is not None and self._enabled:
            self._tail.read()
            self._rows_before, self._began = self._tail.rows, time.monotonic()
            self._begin(self._total, self._tail.rows)

    def on_test_batch_end(self, *_: Any) -> None:
        """Look at the tables if it is time."""
        if self._progress is not None and self._progress.is_due:
            self._show_tables()

    def end(self, *, finished: bool) -> None:
        """Show the last state, once all processes have ended."""
        self._show_tables()
        self._finish(finished=finished)

    def _show_tables(self) -> None:
        if self._progress is None or self._tail is None:
            return
        self._tail.read()
        rows, seconds = self._tail.rows, time.monotonic() - self._began
        parts = [f"{rows:,} of {self._total:,} images"]
        if rows > self._rows_before:
            parts.append(f"{(rows - self._rows_before) / seconds:.3g} images/s")
        if self._tail.mean_depth is not None:
            parts.append(f"mean depth {self._tail.mean_depth:.1f}")
        self._progress.update(min(rows, self._total), ", ".join(parts))


@contextmanager
def watched(trainer: Trainer, folder: Path, total: int) -> Iterator[None]:
    """Tell a trainer's progress bar, if it has one, which evaluation to watch, and how it ended."""
    bar = trainer.progress_bar_callback
    if not isinstance(bar, ScoringProgressBar):
        yield
        return
    bar.watch(folder, total)
    finished = False
    try:
        yield
        finished = True
    finally:
        bar.end(finished=finished)
