import csv
import errno
import math
import os
import threading
from dataclasses import replace

import pytest

from diffguard.errors import UserError
from diffguard.score_table.cells import from_cell
from diffguard.score_table.manifest import open_manifest
from diffguard.score_table.merge import merge
from diffguard.score_table.writer import ScoreWriter, read_done
from tests.helpers.table_rows import NAMES, ROWS, SETS, make_row, write


def test_columns_and_values_of_a_row(tmp_path):
    write(tmp_path, 0, ROWS)
    with (tmp_path / "scores" / "rank-0.csv").open(newline="", encoding="utf-8") as file:
        rows = [{k: from_cell(v) for k, v in row.items()} for row in csv.DictReader(file)]
    head = "dataset,index,path,label,prediction,probability"
    assert ",".join(rows[0]) == f"{head},{','.join(NAMES)},stop_step,network_passes,error,seal"
    assert [row["path"] for row in rows] == [row.path for row in ROWS]
    for row, cells in zip(ROWS, rows, strict=True):
        if row.error:
            assert cells["error"] == row.error
            assert [cells[name] for name in (*NAMES, "prediction", "stop_step")] == [""] * 4
        else:
            assert {name: float(cells[name]) for name in NAMES} == row.scores
            assert float(cells["probability"]) == row.probability


def test_merge_is_sorted_and_the_same_for_any_number_of_processes(tmp_path):
    contents = set()
    for world_size in (1, 2, 3, 20):
        folder = tmp_path / str(world_size)
        open_manifest(folder, {"sets": SETS})
        for rank in range(world_size):
            write(folder, rank, ROWS[rank::world_size][::-1])
        contents.add(merge(folder).read_bytes())
    assert len(contents) == 1
    records = list(csv.DictReader(contents.pop().decode("utf-8", "replace").splitlines(True)))
    keys = [(record["dataset"], int(record["index"])) for record in records]
    assert keys == [("letters", i) for i in range(4)] + [("digits", i) for i in range(7)]


def test_order_of_the_sets_may_be_given(tmp_path):
    write(tmp_path, 0, ROWS)
    lines = merge(tmp_path, order=["digits", "letters"]).read_text(errors="replace").splitlines()
    assert lines[1].startswith('"digits",0,')
    assert lines[-1].startswith('"letters",3,')
    with pytest.raises(UserError, match="rows of 'letters', expected one of digits"):
        merge(tmp_path, order=["digits"])


def test_a_run_killed_at_any_byte_ends_with_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of files, and no crash to fear
    rows, sets = ROWS[2:6], {"digits": {"n": 4}}
    whole = tmp_path / "whole"
    open_manifest(whole, {"sets": sets})
    write(whole, 0, rows)
    content = (whole / "scores" / "rank-0.csv").read_bytes()
    expected = merge(whole).read_bytes()
    for cut in range(len(content) + 1):
        folder = tmp_path / str(cut)
        open_manifest(folder, {"sets": sets})
        (folder / "scores").mkdir()
        (folder / "scores" / "rank-0.csv").write_bytes(content[:cut])
        done = read_done(folder)
        assert done == {(row.dataset, row.index) for row in rows[: len(done)] if not row.error}
        # Continued by two processes, one of which finds the torn row.
        rest = [row for row in rows if (row.dataset, row.index) not in done]
        write(folder, 0, rest[0::2])
        write(folder, 1, rest[1::2])
        assert merge(folder).read_bytes() == expected


def test_a_torn_row_is_not_merged(tmp_path):
    write(tmp_path, 0, ROWS[:3])
    with (tmp_path / "scores" / "rank-0.csv").open("ab") as file:
        file.write(b'"digits",3,"a\n')
    assert len(read_done(tmp_path)) == 3
    assert len(merge(tmp_path, order=["digits"]).read_text().splitlines()) == 4
    open_manifest(tmp_path / "sized", {"sets": {"digits": {"n": 4}}})
    write(tmp_path / "sized", 0, ROWS[:3])
    with pytest.raises(UserError, match="rows for 3 of the 4 images of digits"):
        merge(tmp_path / "sized")


def test_two_writers_of_one_rank_share_no_file(tmp_path):
    # A run that is started again while a process of the old one is still alive.
    with ScoreWriter(tmp_path, 0, NAMES) as old, ScoreWriter(tmp_path, 0, NAMES) as new:
        old.write(ROWS[:2])
        new.write(ROWS[1:5])
        old.write(ROWS[2:4])
        new.write(ROWS[5:])
    assert (old.path.name, new.path.name) == ("rank-0.csv", "rank-0.2.csv")
    write(tmp_path / "plain", 0, ROWS)
    order = ["digits", "letters"]
    assert merge(tmp_path, order).read_bytes() == merge(tmp_path / "plain", order).read_bytes()


def test_nothing_is_done_in_a_new_folder(tmp_path):
    assert read_done(tmp_path / "new") == set()
    with pytest.raises(UserError, match=r"no score tables in .*scores: run the evaluation first"):
        merge(tmp_path)


def test_a_rank_without_rows_leaves_no_trace(tmp_path):
    write(tmp_path, 0, ROWS)
    write(tmp_path, 1, [])
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["rank-0.csv"]
    assert len(merge(tmp_path, order=["digits", "letters"]).read_bytes()) > 0
    # The image that could not be read is tried again.
    assert len(read_done(tmp_path)) == len(ROWS) - 1


def test_scores_take_the_place_of_an_error(tmp_path):
    order = ["digits", "letters"]
    repaired = [*ROWS[:5], make_row("digits", 5, path="broken.png"), *ROWS[6:]]
    write(tmp_path / "repaired", 0, repaired)
    expected = merge(tmp_path / "repaired", order=order).read_bytes()
    for number, ranks in enumerate([(ROWS, repaired[5:6]), (repaired[5:6], ROWS)]):
        folder = tmp_path / str(number)
        for rank, rows in enumerate(ranks):
            write(folder, rank, rows)
        assert merge(folder, order=order).read_bytes() == expected
    # Of two errors, the first is reported.
    write(tmp_path, 0, ROWS)
    write(tmp_path, 1, [replace(ROWS[5], error="it does not exist")])
    assert b"truncated" in merge(tmp_path, order=order).read_bytes()


def test_other_columns_are_refused(tmp_path):
    write(tmp_path, 0, ROWS)
    order = ["digits", "letters"]
    with ScoreWriter(tmp_path, 0, NAMES[::-1]) as writer:
        writer.write([make_row("digits", 50)])
    with pytest.raises(UserError, match=r"has other columns.*their order"):
        merge(tmp_path, order=order)
    with ScoreWriter(tmp_path, 0, ["msp"]) as writer:
        writer.write([make_row("digits", 51)])
    (tmp_path / "scores" / "rank-0.2.csv").unlink()
    with pytest.raises(UserError, match=r"has other columns.*diffguard/logits_l1"):
        merge(tmp_path, order=order)


def test_duplicates_must_agree(tmp_path):
    order = ["digits", "letters"]
    write(tmp_path, 0, ROWS)
    before = merge(tmp_path, order=order).read_bytes()
    write(tmp_path, 1, ROWS[2:5])
    assert merge(tmp_path, order=order).read_bytes() == before
    write(tmp_path, 2, [make_row("letters", 1, path="other.png")])
    with pytest.raises(UserError, match="image 1 of letters has two different rows"):
        merge(tmp_path, order=order)
    assert (tmp_path / "scores.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_a_score_that_is_not_finite_names_its_image(tmp_path, broken):
    row = make_row("digits", 4)
    row.scores["msp"] = broken
    with ScoreWriter(tmp_path, 0, NAMES) as writer:
        with pytest.raises(UserError, match=rf"msp of digits image 4 \(digits/4.png\) is {broken}"):
            writer.write([make_row("digits", 3), row])
        writer.write([make_row("digits", 5)])
    assert read_done(tmp_path) == {("digits", 5)}


@pytest.mark.parametrize(
    "damage", [b'"digits",7\n', b'"digits","x"' + b",0" * 9 + b"\n", b'"' + b"x\n" * 600_000]
)
def test_damage_that_no_crash_explains_is_refused(tmp_path, damage):
    write(tmp_path, 0, ROWS[:2])
    with (tmp_path / "scores" / "rank-0.csv").open("ab") as file:
        file.write(damage)
    with pytest.raises(UserError, match=r"rank-0.csv is damaged at byte"):
        read_done(tmp_path)


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        taken = min(len(data), self.room, 50)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        return self.file.write(data[:taken])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_keeps_whole_chunks_and_the_run_can_resume(tmp_path):
    with ScoreWriter(tmp_path, 0, NAMES) as writer:
        writer._file = FullDisk(writer._create(), room=600)
        writer.write(ROWS[:2])
        with pytest.raises(UserError, match=r"cannot write .*rank-0.csv: No space left on device"):
            writer.write(ROWS[2:])
        assert read_done(tmp_path) == {("digits", 0), ("digits", 1)}
        writer._file.room = 10**6
        writer.write(ROWS[2:])
    write(tmp_path / "plain", 0, ROWS)
    table = "scores/rank-0.csv"
    assert (tmp_path / table).read_bytes() == (tmp_path / "plain" / table).read_bytes()


def test_reading_while_another_process_writes_sees_whole_rows_only(tmp_path):
    rows = [make_row("digits", i) for i in range(300)]
    writing = threading.Thread(target=write, args=(tmp_path, 0, rows, 10))
    writing.start()
    while writing.is_alive():
        done = read_done(tmp_path)
        assert done == {("digits", i) for i in range(len(done))}
    writing.join()
    assert len(read_done(tmp_path)) == 300
