"""Training with callbacks and loggers of the user's own modules."""

import shutil
import sys

import pytest
import yaml

import train
from diffguard.errors import UserError
from tests.helpers.tiny_project import write_config


def test_callbacks_and_loggers_by_class_path_run_only_if_the_command_names_them(
    tmp_path, data_root, monkeypatch, capsys
):
    """The stored config names them, but a resumed run imports nothing that is not named again."""
    (tmp_path / "users_callbacks.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Words(Callback):\n"
        "    def __init__(self, word): self.word = word\n"
        "    def on_fit_end(self, trainer, module): print(self.word, module.stage)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config, folder = write_config(tmp_path / "tiny.yaml", data_root), tmp_path / "run"
    callbacks = [{"class_path": "users_callbacks.Words", "init_args": {"word": "end of"}}]
    table = {"class_path": "lightning.pytorch.loggers.CSVLogger"}
    loggers = [{**table, "init_args": {"save_dir": str(tmp_path), "name": "table"}}]
    named = ["--trainer.callbacks", str(callbacks), "--trainer.loggers", str(loggers)]
    only = ["--stages", "[classifier]", "--classifier.max_epochs", "1"]
    assert train.main(["--config", str(config), *only, *named, "--run_dir", str(folder)]) == 0
    assert "end of classifier" in capsys.readouterr().out
    assert list((tmp_path / "table").rglob("metrics.csv"))
    trainer = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    assert (trainer["callbacks"], trainer["loggers"]) == (callbacks, loggers)

    monkeypatch.delitem(sys.modules, "users_callbacks")
    resume = ["--resume", str(folder), *only[:2]]
    for words, key in ((named[2:], "trainer.callbacks"), (named[:2], "trainer.loggers")):
        with pytest.raises(UserError, match=f"starts no code: give --{key} again"):
            train.main([*resume, *words])
    assert "users_callbacks" not in sys.modules
    assert train.main([*resume, *named]) == 0


def test_a_calibration_keeps_the_record_of_callbacks_without_importing_them(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    entry = {"class_path": "no_such.Class"}
    config["trainer"] |= {"callbacks": [entry], "loggers": ["csv", entry], "profiler": entry}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert train.main(["--resume", str(folder), "--stages", "[calibrate]"]) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"] == config["trainer"]
    with pytest.raises(UserError, match="trainer.loggers has no effect here"):
        train.main(["--resume", str(folder), "--stages", "[calibrate]", "--trainer.loggers", "[]"])
