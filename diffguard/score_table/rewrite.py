"""Writes a score table in memory as a file, in the form of a merged one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffguard.score_table.encoding import encode_rows
from diffguard.score_table.rows import HEAD_COLUMNS, STAGE_COLUMN, TAIL_COLUMNS
from diffguard.score_table.table import ScoreTable
from diffguard.storage.files import replace_file

_CHUNK = 10_000  # rows that are encoded at a time


def write_table(table: ScoreTable, path: Path, *, has_stages: bool = False) -> None:
    """Replace a file by a score table; `ScoreTable.read` restores every bit.

    Args:
        table: The table.
        path: `scores.csv`.
        has_stages: Whether the scores are those of a cascade.

    Raises:
        UserError: If the file cannot be written.
    """
    stage = [STAGE_COLUMN] if has_stages else []
    with replace_file(path) as temporary, temporary.open("wb") as output:
        output.write(encode_rows([[*HEAD_COLUMNS, *table.scores, *stage, *TAIL_COLUMNS]]))
        for start in range(0, len(table), _CHUNK):
            rows = slice(start, min(start + _CHUNK, len(table)))
            output.write(encode_rows(_fields(table, rows, has_stages=has_stages)))


def _fields(table: ScoreTable, rows: slice, *, has_stages: bool) -> Iterator[tuple[object, ...]]:
    floats = [_known(v[rows]) for v in (table.probability, *table.scores.values())]
    stage = [_known(table.stage[rows])] if has_stages else []
    return zip(
        [table.dataset_names[code] for code in table.dataset[rows].tolist()],
        table.index[rows].tolist(),
        table.path[rows],
        table.label[rows].tolist(),
        _known(table.prediction[rows]),
        *floats,
        *stage,
        _known(table.stop_step[rows]),
        _known(table.network_passes[rows]),
        table.error[rows].tolist(),
        strict=True,
    )


def _known(values: NDArray[np.float64] | NDArray[np.int32]) -> list[float | int | None]:
    """The values as a table writes them: None for NaN, and for a number below 0 of a count."""
    if values.dtype == np.float64:
        return [None if np.isnan(value) else value for value in values.tolist()]
    return [None if value < 0 else value for value in values.tolist()]
