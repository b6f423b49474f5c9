"""Callbacks and loggers by class path."""

import sys

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger

import train
from diffguard.errors import UserError
from diffguard.training.class_paths import build
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.detector_options import instantiate
from diffguard_cli.parser import parse
from lightning_modules.loggers import build_loggers
from lightning_modules.trainer import check_classes

STOP = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "classifier/val_loss", "patience": 2},
}
TABLE = {"class_path": "lightning.pytorch.loggers.CSVLogger"}


def test_the_command_line_takes_class_paths_as_plain_data(tmp_path):
    (tmp_path / "more.yaml").write_text(f"trainer: {{callbacks: [{STOP}]}}\n")
    loggers = [{**TABLE, "init_args": {"save_dir": "x"}}, "tensorboard"]
    argv = ["--config", "digits", "--config", str(tmp_path / "more.yaml")]
    parser = train.build_parser()
    namespace = parse(parser, [*argv, "--trainer.loggers", str(loggers)])
    config = instantiate(parser, namespace).trainer
    assert config.callbacks == [STOP]
    assert config.loggers == loggers
    check_classes(config)


def test_class_paths_become_objects(tmp_path):
    callback = build(STOP, EarlyStopping, "trainer.callbacks")
    assert callback.patience == 2
    entry = {**TABLE, "init_args": {"save_dir": str(tmp_path), "name": "mine"}}
    first, second = build_loggers([entry, "csv"], tmp_path, "classifier")
    assert [type(first), type(second)] == [CSVLogger, CSVLogger]
    assert first.root_dir == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"class_path": "a.B", "args": {}}, "an entry with the key 'args': expected {class_path"),
        ({"init_args": {}}, "an entry without a class_path"),
        ({**TABLE, "init_args": "x"}, "an entry with the init_args 'x'"),
        ({"class_path": "no_such.Thing"}, "class 'no_such.Thing' cannot be imported: No module"),
        ({"class_path": "os;x"}, "expected an import path such as my_module.Net"),
        (TABLE, "CSVLogger is not a Callback: expected a subclass of Lightning's Callback"),
        ({"class_path": "os.getcwd"}, "os.getcwd is not a Callback"),
        ({**STOP, "init_args": {"patience": 2}}, "init_args of .*: missing .* 'monitor'"),
        ({**STOP, "init_args": {"monitor": "x", "y": 1}}, "init_args of .*unexpected .* 'y'"),
    ],
)
def test_mistakes_are_reported_in_one_line(entry, message):
    with pytest.raises(UserError, match=rf"^trainer\.callbacks.*{message}") as caught:
        check_classes(TrainerConfig(callbacks=[entry]))
    assert "\n" not in str(caught.value)


def test_a_constructor_that_refuses_its_arguments_is_named():
    entry = {**STOP, "init_args": {"monitor": "x", "mode": "best"}}
    with pytest.raises(UserError, match=r"EarlyStopping rejects its init_args: .*mode"):
        build(entry, EarlyStopping, "trainer.callbacks")


def test_the_form_is_checked_without_an_import(tmp_path, monkeypatch):
    (tmp_path / "some_callbacks.py").write_text("class X: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = TrainerConfig(callbacks=[{"class_path": "some_callbacks.X"}])
    assert "some_callbacks" not in sys.modules
    with pytest.raises(UserError, match=r"some_callbacks\.X is not a Callback"):
        check_classes(config)
