"""Progress of an evaluation over all its processes, read from the tables they append to.

Only the first process reads them, and only when an update is due. The numbers are shown on the
screen and used for nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer

from diffguard.score_table.tail import TableTail
from lightning_modules.callbacks.training_bar import StageProgressBar

_LINE_SECONDS = 60.0


class ScoringProgressBar(StageProgressBar):
    """Finished images, rate, remaining time and mean depth, over all processes.

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
        """Set the evaluation folder, and how many images it will hold."""
        self._tail, self._total = TableTail(folder), total

    def on_test_start(self, *_: Any) -> None:
        """Start with the images of earlier sessions."""
        if self._tail is not None and self._enabled:
            self._tail.read()
            self._rows_before, self._began = self._tail.rows, time.monotonic()
            self._begin(self._total, self._tail.rows)

    def on_test_batch_end(self, *_: Any) -> None:
        """Read the tables if an update is due."""
        if self._progress is not None and self._progress.is_due:
            self._show_tables()

    def end(self, *, complete: bool) -> None:
        """Show the last state after all processes have ended."""
        self._show_tables()
        self._finish(complete=complete)

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
    """Show an evaluation in a trainer's progress bar, if it has one.

    Args:
        trainer: The trainer.
        folder: The evaluation folder.
        total: How many images it will hold.
    """
    bar = trainer.progress_bar_callback
    if not isinstance(bar, ScoringProgressBar):
        yield
        return
    bar.watch(folder, total)
    complete = False
    try:
        yield
        complete = True
    finally:
        bar.end(complete=complete)
