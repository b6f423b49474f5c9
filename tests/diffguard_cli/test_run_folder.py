"""The folder of a run: created once, used by one training, without links out of it."""

import time

import pytest

from diffguard.errors import UserError
from diffguard_cli.run_folder import open_run_folder
from tests.helpers import tiny_training as tiny

CONFIG = {"seed": 1, "run_dir": None, "resume": None, "trainer": {}}


@pytest.fixture
def open_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = tiny.trainer(tmp_path / "trainer")

    def open_one(run_dir=None, resume=None, **config):
        config = {**CONFIG, "run_dir": run_dir, "resume": resume, **config}
        return open_run_folder(trainer, config, "tiny", CONFIG if resume else None)

    return open_one


def test_runs_that_start_in_the_same_second_have_different_folders(open_folder, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    with open_folder() as first, open_folder(seed=2) as second, open_folder(seed=3) as third:
        assert [f.name for f in (first, second, third)] == ["now", "now-2", "now-3"]
    assert "seed: 2" in (second / "config.yaml").read_text()


def test_a_folder_serves_one_training_at_a_time(open_folder, tmp_path):
    folder = str(tmp_path / "run")
    with open_folder(folder), pytest.raises(UserError, match="exists already"):
        open_folder(folder).__enter__()
    with (
        open_folder(folder + "-2"),
        pytest.raises(UserError, match="in use by another training"),
    ):
        open_folder(resume=folder + "-2").__enter__()
    with (
        open_folder(resume=folder),
        pytest.raises(UserError, match="in use by another training"),
    ):
        open_folder(resume=folder).__enter__()
    with pytest.raises(UserError, match="exists already"), open_folder(folder):
        pass


def test_a_run_that_was_killed_before_it_had_a_config_starts_again(open_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".config.yaml.elsewhere-1.tmp").write_text("seed: 1\nrun_")
    with open_folder(str(folder)):
        assert (folder / "config.yaml").is_file()


def train_and_fail(folder):
    (folder / "classifier").mkdir()
    raise UserError("no")


def test_only_a_new_and_unused_folder_is_removed(open_folder, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="no"), open_folder(str(folder)):
        raise UserError("no")
    assert not folder.exists()
    with pytest.raises(UserError, match="no"), open_folder(str(folder)):
        train_and_fail(folder)
    assert folder.exists()
    with pytest.raises(UserError, match="no"), open_folder(resume=str(folder)):
        raise UserError("no")
    assert (folder / "config.yaml").is_file()


def test_links_out_of_a_resumed_run_are_refused(open_folder, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    with open_folder(str(folder)):
        (folder / "classifier").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "inside").symlink_to("classifier")
    with open_folder(resume=str(folder)):
        pass
    (folder / "checkpoints").symlink_to(outside)
    with pytest.raises(UserError, match=r"checkpoints is a link that points outside the run"):
        open_folder(resume=str(folder)).__enter__()
    assert list(outside.iterdir()) == []
