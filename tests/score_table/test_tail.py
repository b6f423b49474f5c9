"""Rows are counted while the processes append them."""

import pytest

from diffguard.score_table.tail import TableTail
from diffguard.score_table.writer import ScoreWriter
from tests.helpers.table_rows import NAMES, ROWS

STEPS = [row.stop_step for row in ROWS if row.stop_step is not None]


def append(folder, rank, rows):
    with ScoreWriter(folder, rank, NAMES) as writer:
        writer.write(rows)


def test_rows_of_all_processes_count_once_and_torn_ones_not_yet(tmp_path):
    tail = TableTail(tmp_path)
    tail.read()
    assert (tail.rows, tail.mean_depth) == (0, None)
    append(tmp_path, 0, ROWS[:2])
    append(tmp_path, 1, ROWS[2:7])
    tail.read()
    assert tail.rows == 7
    table = max((tmp_path / "scores").iterdir())
    whole = table.read_bytes()
    append(tmp_path, 2, ROWS[7:])
    last = max((tmp_path / "scores").iterdir())
    written = last.read_bytes()
    last.write_bytes(written[:-3])
    tail.read()
    assert tail.rows == len(ROWS) - 1
    last.write_bytes(written)
    tail.read()
    tail.read()
    assert tail.rows == len(ROWS)
    assert tail.mean_depth == pytest.approx(sum(STEPS) / len(STEPS))
    assert table.read_bytes() == whole
