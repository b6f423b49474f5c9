"""The score table on disk: rows appended per process, resumed after a crash, merged at the end.

`scores/rank-<r>.csv` holds the rows that process r has finished, in any order. A run that is
started again adds `rank-<r>.2.csv` and so on: two processes never write to one file, even if an
earlier one is still alive. `scores.csv` is the merge, sorted by set and index. Columns:
`dataset, index, path, label, prediction, probability`, one per score,
`stop_step, network_passes, error`. The table of a cascade also has the column `stage` before
`stop_step`, and in stage 1 the scores of the diffusion model are empty. If only the decision is
needed, so are the scores that do not enter it. Text is always quoted (see
`score_table/cells.py`); floats are written by `repr`, which restores every bit. The tables of
processes have one more column, `seal`, which reveals rows that were edited or belong to another
run.

A process may die at any byte: a torn last row is never read, so its image is scored again.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from diffguard.errors import UserError
from diffguard.score_table.encoding import (
    SEAL,
    encode_rows,
    locate_rows,
    rank_tables,
    seal,
    table_key,
)
from diffguard.score_table.manifest import run_key
from diffguard.score_table.rows import (
    BASELINES_STAGE,
    HEAD_COLUMNS,
    STAGE_COLUMN,
    TAIL_COLUMNS,
    ScoreRow,
)
from diffguard.storage.files import refuse_links, write_error


class ScoreWriter:
    """Append rows to a new table of one process.

    The table is created with the first rows, which are sealed with the folder's manifest. Each call
    of `write` is one write to the file and a flush to the disk, so even a crash of the machine
    loses at most the chunk that is being written.

    Args:
        folder: The evaluation folder.
        rank: Number of this process.
        score_names: The score columns, in order.
        has_stages: Whether images may skip the diffusion model.
        optional: Scores that images may lack in stage 2 too; this needs `has_stages`.

    Attributes:
        path: The table; None before the first row.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        score_names: Sequence[str],
        *,
        has_stages: bool = False,
        optional: Collection[str] = (),
    ) -> None:
        self.path: Path | None = None
        self._folder, self._rank = Path(folder) / "scores", rank
        self._score_names, self._has_stages = tuple(score_names), has_stages
        self._optional = frozenset(optional)
        self._file: io.FileIO | None = None
        stage = [STAGE_COLUMN] if has_stages else []
        self._header = encode_rows([[*HEAD_COLUMNS, *score_names, *stage, *TAIL_COLUMNS, SEAL]])
        self._key = b""

    def write(self, rows: Iterable[ScoreRow]) -> None:
        """Append a chunk of rows, all or none.

        Args:
            rows: Finished images, each with all the scores of the table or with an error. Optional
                scores may be missing, and in stage 1 any score.

        Raises:
            UserError: If a score is missing or not finite (naming the image), or the disk is full.
        """
        fields = [self._to_fields(row) for row in rows]
        if not fields:
            return
        file = self._file or self._create()
        data = b"".join(seal(encode_rows([row]), self._key) for row in fields)
        start = os.fstat(file.fileno()).st_size
        if not start:
            # Written together with the first rows, so that no file ends within the header.
            data = self._header + data
        try:
            rest = memoryview(data)
            while rest:  # a full disk may accept a part before it refuses the rest
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(start)
            file.seek(start)
            raise write_error(Path(str(file.name)), error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _create(self) -> io.FileIO:
        self._key = table_key(self._header, run_key(self._folder.parent))
        refuse_links(self._folder)
        path = self._folder / f"rank-{self._rank}.csv"
        session = 1
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.FileIO(path, "xb")
            except FileExistsError:  # an earlier session's, which may still be alive
                session += 1
                path = self._folder / f"rank-{self._rank}.{session}.csv"
            except OSError as error:
                raise write_error(path, error) from error
            else:
                self.path, self._file = path, file
                return file

    def __enter__(self) -> ScoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _to_fields(self, row: ScoreRow) -> list[object]:
        values: list[float | None] = [None] * (1 + len(self._score_names))
        if not row.error:
            columns = {"probability": row.probability} | {
                n: row.scores.get(n) for n in self._score_names
            }
            is_clear = self._has_stages and row.stage == BASELINES_STAGE
            for name, value in columns.items():
                may_lack = name in self._optional or (is_clear and name != "probability")
                if value is None and may_lack:
                    continue
                if value is None or not math.isfinite(value):
                    raise UserError(
                        f"{name} of {row.dataset} image {row.index} ({row.path}) is {value}, "
                        "expected a finite number: check the network and the image"
                    )
            values = [None if value is None else float(value) for value in columns.values()]
        head = [row.dataset, row.index, row.path, row.label, row.prediction]
        stage = [row.stage] if self._has_stages else []
        return [*head, *values, *stage, row.stop_step, row.network_passes, row.error]


def read_done(folder: Path) -> set[tuple[str, int]]:
    """Read which images are scored: (dataset, index) of every complete row with scores.

    The tables of all processes and sessions count. A row with an error does not, so a run that is
    started again tries to read its image once more.

    Args:
        folder: The evaluation folder.

    Returns:
        The finished (dataset, index) pairs; empty if there is no table yet.

    Raises:
        UserError: If a row belongs to another run, or is damaged in a way that a crash does not
            explain.
    """
    images: set[tuple[str, int]] = set()
    run = run_key(folder)
    for path in rank_tables(folder):
        images.update(place.image for place in locate_rows(path, run) if not place.failed)
    return images
