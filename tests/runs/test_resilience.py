"""Real processes that are killed, fail or disagree end with the same table, or the same edits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import read_done
from tests.helpers.editing_processes import blocks_of, edit, words_of
from tests.helpers.scoring_processes import Death, Elsewhere, OtherMachine, errors_of, evaluate
from tests.helpers.tiny_project import write_config

SIGKILLED = -9


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_root):
    """The table of an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert evaluate(folder, data_root) == [0], errors_of(folder)
    table = ScoreTable.read(folder / "scores.csv")
    assert [len(table.rows(name)) for name in ("shapes", "blank", "noise")] == [18, 7, 9]
    return (folder / "scores.csv").read_bytes()


def test_uneven_shares_of_two_processes_give_the_same_table(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, world=2) == [0, 0], errors_of(folder)
    assert (folder / "scores.csv").read_bytes() == whole
    rows = sum(len(path.read_text().splitlines()) - 1 for path in (folder / "scores").iterdir())
    assert rows == 34  # none was scored twice


def test_more_processes_than_images_give_the_same_table(tmp_path, data_root, whole):
    single, many = tmp_path / "one", tmp_path / "many"
    assert evaluate(single, data_root, limit=1) == [0], errors_of(single)
    assert evaluate(many, data_root, world=4, limit=1) == [0] * 4, errors_of(many)
    table = (single / "scores.csv").read_bytes()
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
    assert evaluate(folder, data_root) == [0], errors_of(folder)
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
def test_a_run_resumes_after_either_process_is_killed(tmp_path, data_root, whole, death):
    folder = tmp_path / "run"
    codes = evaluate(folder, data_root, world=2, death=death)
    assert codes[death.rank] == SIGKILLED
    assert not (folder / "scores.csv").exists()
    assert evaluate(folder, data_root, world=2) == [0, 0], errors_of(folder)
    assert (folder / "scores.csv").read_bytes() == whole


def test_a_killed_run_resumes_with_another_number_of_processes(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, death=Death(0, "table", writes=2, cut=-3)) == [SIGKILLED]
    assert evaluate(folder, data_root, world=3) == [0] * 3, errors_of(folder)
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
def test_all_processes_refuse_a_table_of_another_run(
    tmp_path, data_root, changes, difference
):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, death=Death(0, "table", writes=2)) == [SIGKILLED]
    before = read_done(folder)
    # The first process reports it once; the other exits, and neither waits forever.
    assert evaluate(folder, data_root, world=2, **changes) == [2, 0]
    assert errors_of(folder).startswith("error: the score tables in")
    assert difference in errors_of(folder)
    assert errors_of(folder).count("\n") == 1
    assert errors_of(folder, 1) == ""
    assert read_done(folder) == before


def test_an_unreadable_image_ends_all_processes_and_no_row_is_lost(tmp_path, data_root, whole):
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    broken = root / "near" / "003.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:40])
    folder = tmp_path / "run"
    assert evaluate(folder, root, world=2) == [2, 0]
    assert f"image {broken} cannot be read" in errors_of(folder)
    assert errors_of(folder).count("\n") == 1
    assert errors_of(folder, 1) == ""
    # The batches before the unreadable image are on disk.
    done = read_done(folder)
    assert {("shapes", index) for index in range(16)} <= done
    assert ("blank", 3) not in done
    assert evaluate(folder, root, world=2, on_error="skip") == [0, 0], errors_of(folder)
    table = ScoreTable.read(folder / "scores.csv")
    (row,) = np.flatnonzero(~table.valid)
    assert f"image {broken} cannot be read" in table.error[row]
    lines = set((folder / "scores.csv").read_bytes().splitlines())
    assert len(lines & set(whole.splitlines())) == 1 + 33
    # A repaired image is scored, but an image that has scores must not change.
    broken.write_bytes(content)
    assert evaluate(folder, root) == [0], errors_of(folder)
    assert (folder / "scores.csv").read_bytes() == whole
    broken.write_bytes(content + b"more")
    assert evaluate(folder, root, world=2) == [2, 0]
    assert "003.png of the set blank has changed since it was scored" in errors_of(folder)
    assert (folder / "scores.csv").read_bytes() == whole


def test_machines_without_a_shared_folder_are_refused_before_scoring(
    tmp_path, data_root, monkeypatch
):
    # A relative path means a different folder in each process.
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    apart = Elsewhere(1, tmp_path / "other")
    assert evaluate(folder, data_root, world=2, death=apart) == [2, 0]
    assert "process 1 does not see what the first process has written to" in errors_of(folder)
    assert "must be on a disk that all machines share" in errors_of(folder)
    assert errors_of(folder).count("\n") == 1
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_resumes_with_its_first_number_of_threads(tmp_path, data_root, whole):
    folder = tmp_path / "run"
    death = Death(0, "table", writes=2)
    assert evaluate(folder, data_root, death=death, threads=2) == [SIGKILLED]
    assert evaluate(folder, data_root, threads=1) == [2]
    assert "machine.threads was 2, is 1" in errors_of(folder)
    assert evaluate(folder, data_root, threads=None) == [0], errors_of(folder)
    begun = json.loads((folder / "manifest.json").read_text())["machine"]["threads"]
    assert begun == 2
    # No rows are added, so the number of threads does not matter.
    assert evaluate(folder, data_root, threads=1) == [0], errors_of(folder)


def test_processes_on_machines_unlike_the_first_are_refused(tmp_path, data_root):
    folder = tmp_path / "run"
    assert evaluate(folder, data_root, world=2, death=OtherMachine(1)) == [2, 0]
    assert "the processes differ: numpy is" in errors_of(folder)
    assert "and 0.0 in another" in errors_of(folder)
    assert not (folder / "scores").exists()


@pytest.fixture(scope="module")
def editing(tmp_path_factory, data_root, run_folder):
    """Returns the command line that edits the training images in a new run."""
    config = write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", data_root)
    return lambda folder: words_of(config, folder, run_folder / "diffusion")


@pytest.fixture(scope="module")
def whole_edits(tmp_path_factory, editing):
    """The edits of an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("edits")
    assert edit(editing(folder / "run"), folder) == [0]
    assert blocks_of(folder, 0) == [0, 1, 2, 3, 4]
    return edits_of(folder)


def edits_of(folder):
    (path,) = (folder / "run").glob("augment/*/edits.npy")
    return path.read_bytes()


def test_edits_of_a_killed_run_resume_with_the_missing_blocks(tmp_path, editing, whole_edits):
    words = editing(tmp_path / "run")
    assert edit(words, tmp_path, writes=2) == [SIGKILLED]
    assert not list(tmp_path.glob("run/augment/*/edits.npy"))
    assert len(list(tmp_path.glob("run/augment/*/block-*"))) == 2
    assert edit(["--resume", str(tmp_path / "run")], tmp_path) == [0]
    assert blocks_of(tmp_path, 0) == [0, 1, 2, 3, 4]
    assert edits_of(tmp_path) == whole_edits
    assert not list(tmp_path.glob("run/augment/*/*block*"))


def test_two_processes_make_the_edits_of_one(tmp_path, editing, whole_edits):
    assert edit(editing(tmp_path / "run"), tmp_path, world=2) == [0, 0]
    assert [blocks_of(tmp_path, rank) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
    assert edits_of(tmp_path) == whole_edits
