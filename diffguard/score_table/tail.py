"""Counts the rows of the tables to which the processes of an evaluation append."""

from __future__ import annotations

from pathlib import Path

from diffguard.score_table.encoding import complete_records, decode_row, rank_tables
from diffguard.score_table.rows import TAIL_COLUMNS

# Counted from the end of a row; the seal is the last cell.
_STOP_STEP = TAIL_COLUMNS.index("stop_step") - len(TAIL_COLUMNS) - 1


class TableTail:
    """Counts the rows in the tables of an evaluation folder; it reads every byte once.

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
        """Count the rows that were appended since the last call."""
        for path in rank_tables(self._folder):
            end = self._ends.get(path, 0)
            for offset, record in complete_records(path, end):
                self._ends[path] = offset + len(record)
                if offset:  # the header is at 0
                    self._count(decode_row(record, path)[_STOP_STEP])

    def _count(self, stop_step: str) -> None:
        self.rows += 1
        if stop_step:
            self._stopped += 1
            self._steps += int(stop_step)

    @property
    def mean_depth(self) -> float | None:
        """Mean number of inversion steps after which images stopped; None before the first one."""
        return self._steps / self._stopped if self._stopped else None
