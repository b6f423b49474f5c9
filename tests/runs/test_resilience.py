"""Real processes that are killed, fail or disagree: in the end the table is always the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import read_done
from tests.helpers.scoring_processes import Death, Elsewhere, OtherMachine, evaluate, said

SIGKILLED = -9


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_root):
    """The table of an uninterrupted run on one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert evaluate(folder, data_root) == [0], said(folder)
    table = ScoreTable.read(folder / "scores.csv")
    assert [len(table.rows(name)) for name in ("shapes", "blank", "noise")] == [18, 7, 9]
    return (folder / "scores.csv").read_bytes()


def test_uneven_shares_of_two_processes_give_the_same_table(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, world=2) == [0, 0], said(folder)
    assert (folder / "scores.csv").read_bytes() == whole
    rows = sum(len(path.read_text().splitlines()) - 1 for path in (folder / "scores").iterdir())
    assert rows == 34  # none was scored twice


def test_more_processes_than_images_give_the_same_table(tmp_path, data_root, whole):
    one, many = tmp_path / "one", tmp_path / "many"
    assert evaluate(one, data_root, limit=1) == [0], said(one)
    assert evaluate(many, data_root, world=4, limit=1) == [0] * 4, said(many)
    table = (one / "scores.csv").read_bytes()
    assert (many / "scores.csv").read_bytes() == table
    assert len(table.splitlines()) == 1 + 3
    assert set(table.splitlines()) < set(whole.splitlines())


@pytest.mark.parametrize(
    "death",
    [
        Death(0, "table", writes=1, cut=0),
        Death(0, "table", writes=1, cut=9),
        Death(0, "table", writes=1, cut=-3),
        Death(0, "table", writes=2),
        Death(0, "table", writes=3, cut=-1),
        Death(0, "merge", writes=1, cut=5),
        Death(0, "merge", writes=20, cut=-4),
        Death(0, "replace"),
    ],
    ids=str,
)
def test_a_run_killed_anywhere_resumes_to_the_same_table(
    tmp_path, data_root, whole, death
):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, death=death) == [SIGKILLED]
    assert not (folder / "scores.csv").exists()
    if death.place == "table":
        assert len(read_done(folder)) < 34
    assert evaluate(folder, data_root) == [0], said(folder)
    assert (folder / "scores.csv").read_bytes() == whole
    assert [path.name for path in folder.glob(".*")] == []


@pytest.mark.parametrize(
    "death",
    [
        Death(0, "start"),
        Death(1, "start"),
        Death(0, "table", writes=1, cut=-7),
        Death(1, "table", writes=2, cut=11),
        Death(0, "merge", writes=7, cut=-2),
    ],
    ids=str,
)
def test_any_process_of_two_may_be_killed(tmp_path, data_root, whole, death):
    folder = tmp_path / "run"
    codes = evaluate(folder, data_root, world=2, death=death)
    assert codes[death.rank] == SIGKILLED
    assert not (folder / "scores.csv").exists()
    assert evaluate(folder, data_root, world=2) == [0, 0], said(folder)
    assert (folder / "scores.csv").read_bytes() == whole


def test_a_killed_run_may_resume_with_another_number_of_processes(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, death=Death(0, "table", writes=2, cut=-3)) == [SIGKILLED]
    assert evaluate(folder, data_root, world=3) == [0] * 3, said(folder)
    assert (folder / "scores.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"checkpoint": "two"}, 'checkpoint was "one", is "two"'),
        ({"batch_size": 16}, "batch_size was 8, is 16"),
        ({"limit": 5}, "sets.shapes.n was 18, is 5"),
    ],
    ids=["checkpoint", "config", "data"],
)
def test_a_table_of_something_else_is_refused_by_all_processes(
    tmp_path, data_root, changes, difference
):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, death=Death(0, "table", writes=2)) == [SIGKILLED]
    before = read_done(folder)
    # The first process says it once; the other leaves, and none waits for ever.
    assert evaluate(folder, data_root, world=2, **changes) == [2, 0]
    assert said(folder).startswith("error: the score tables in")
    assert difference in said(folder)
    assert said(folder).count("\n") == 1
    assert said(folder, 1) == ""
    assert read_done(folder) == before


def test_an_unreadable_image_ends_all_processes_and_nothing_is_lost(tmp_path, data_root, whole):
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    broken = root / "near" / "003.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:40])
    folder = tmp_path / "run"
    assert evaluate(folder, root, world=2) == [2, 0]
    assert f"image {broken} cannot be read" in said(folder)
    assert said(folder).count("\n") == 1
    assert said(folder, 1) == ""
    # The batches before that of the broken image are on disk.
    done = read_done(folder)
    assert {("shapes", index) for index in range(16)} <= done
    assert ("blank", 3) not in done
    assert evaluate(folder, root, world=2, on_error="skip") == [0, 0], said(folder)
    table = ScoreTable.read(folder / "scores.csv")
    (row,) = np.flatnonzero(~table.valid)
    assert f"image {broken} cannot be read" in table.error[row]
    lines = set((folder / "scores.csv").read_bytes().splitlines())
    assert len(lines & set(whole.splitlines())) == 1 + 33
    # Repaired, it is scored; but an image that has its scores must stay what it was.
    broken.write_bytes(content)
    assert evaluate(folder, root) == [0], said(folder)
    assert (folder / "scores.csv").read_bytes() == whole
    broken.write_bytes(content + b"more")
    assert evaluate(folder, root, world=2) == [2, 0]
    assert "003.png of the set blank has changed since it was scored" in said(folder)
    assert (folder / "scores.csv").read_bytes() == whole


def test_machines_that_share_no_folder_are_told_before_anything_is_scored(
    tmp_path, data_root, monkeypatch
):
    # A path without "..": it means another folder in each process, wherever the clone lies.
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    apart = Elsewhere(1, tmp_path / "other")
    assert evaluate(folder, data_root, world=2, death=apart) == [2, 0]
    assert "process 1 does not see what the first process has written to" in said(folder)
    assert "must be on a disk that all machines share" in said(folder)
    assert said(folder).count("\n") == 1
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_resumes_with_its_first_number_of_threads(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    death = Death(0, "table", writes=2)
    assert evaluate(folder, data_root, death=death, asked=2) == [SIGKILLED]
    assert evaluate(folder, data_root, asked=1) == [2]
    assert "machine.threads was 2, is 1" in said(folder)
    assert evaluate(folder, data_root, asked=None) == [0], said(folder)
    begun = json.loads((folder / "manifest.json").read_text())["machine"]["threads"]
    assert begun == 2
    # Nothing is added any more, so the threads do not matter.
    assert evaluate(folder, data_root, asked=1) == [0], said(folder)


def test_processes_on_other_machines_than_the_first_are_refused(tmp_path, data_root):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, world=2, death=OtherMachine(1)) == [2, 0]
    assert "the processes differ: numpy is" in said(folder)
    assert "and 0.0 in another" in said(folder)
    assert not (folder / "scores").exists()
