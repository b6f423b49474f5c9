"""Configs from a checkpoint, a run or a file are plain values, and reading them runs no code."""

import sys

import pytest
import torch

import evaluate
import train
from diffguard.checkpoint.file import read_checkpoint
from diffguard.errors import UserError
from diffguard_cli.parser import parse
from diffguard_cli.stored_config import stored_config
from diffguard_cli.yaml_text import check_yaml, read_yaml

BOMB = "a: &a0 [1, 1]\n" + "\n".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]" for i in range(30))
CLASS = {"class_path": "stranger_helper.X", "init_args": {"a": 1}}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that creates a file when it is imported."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    mark = tmp_path / "ran"
    (folder / "stranger_helper.py").write_text(f"open({str(mark)!r}, 'w')\nclass X: pass\n")
    monkeypatch.syspath_prepend(str(folder))
    yield mark
    sys.modules.pop("stranger_helper", None)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (("data", "ood"), CLASS),
        (("data", "id"), CLASS),
        (("data", "ood"), "stranger_helper.X"),
        (("data",), CLASS),
        (("data", "num_workers"), "300"),
        (("data", "batch_size"), 0.5),
        (("trainer",), CLASS),
        (("trainer",), "stranger_helper.X"),
        (("trainer", "threads"), "2"),
        (("trainer", "__path__"), "x.yaml"),
        (("detector", "sampler"), CLASS),
    ],
)
def test_a_stored_config_imports_nothing(run_folder, tmp_path, stranger, section, value):
    content = read_checkpoint(run_folder / "detector.ckpt")
    target = {**content["config"], "detector": content["settings"]}
    for key in section[:-1]:
        target = target[key]
    if section == ("data",) or section == ("trainer",):
        target = content["config"]
    target[section[-1]] = value
    path = tmp_path / "bad.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError) as caught:
        evaluate.main(["--ckpt", str(path), "--dry_run"])
    assert "\n" not in str(caught.value)
    assert not stranger.exists()


def test_classes_of_a_training_are_not_those_of_an_evaluation(run_folder, stranger):
    content = read_checkpoint(run_folder / "detector.ckpt")
    content["config"]["trainer"].update(
        callbacks=[CLASS], loggers=["tensorboard", CLASS], profiler=CLASS
    )
    assert not {"callbacks", "loggers", "profiler"} & set(stored_config(content, "it")["trainer"])
    assert not stranger.exists()
    for hostile in ({"callbacks": CLASS}, {"callbacks": [[CLASS]]}, {"threads": CLASS}):
        content["config"]["trainer"] = {**content["config"]["trainer"], **hostile}
        with pytest.raises(UserError, match="has the key 'class_path' in its config"):
            stored_config(content, "it")


@pytest.mark.parametrize("key", ["detector", "detector.sampler", "data.ood", "trainer"])
@pytest.mark.parametrize("value", ["stranger_helper.X", "{class_path: stranger_helper.X}"])
def test_a_config_with_classes_in_place_of_settings_imports_nothing(tmp_path, stranger, key, value):
    path = tmp_path / "config.yaml"
    text = f"{value}\n"
    for name in reversed(key.split(".")):
        text = f"{name}: {text}" if text[0] in "s{" else f"{name}:\n  {text}"
    path.write_text(text)
    parser = train.build_parser()
    for argv in (["--config", str(path)], [f"--{key}", value]):
        with pytest.raises(UserError):
            parse(parser, ["--config", "configs/digits.yaml", *argv])
    assert not stranger.exists()


def test_a_checkpoint_cannot_set_processes_and_downloads(run_folder, capsys):
    content = read_checkpoint(run_folder / "detector.ckpt")
    content["config"]["data"].update(download=True, num_workers=250, batch_size=60_000)
    content["config"]["trainer"].update(
        threads=1000, devices=300, num_nodes=9, strategy="ddp_spawn", accelerator="odd"
    )
    config = stored_config(content, "it")
    assert "download" not in config["data"]
    assert not {"num_workers", "batch_size"} & set(config["data"])
    assert set(config["trainer"]) <= {"precision", "progress"}
    assert "trainer.threads 1,000" in capsys.readouterr().err
    content["config"]["data"].update(num_workers=3000)
    with pytest.raises(UserError, match=r"data\.num_workers must be at most 256, got 3,000"):
        stored_config(content, "it")


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (2, None), ("auto", None)])
def test_a_detector_of_one_device_is_evaluated_on_one(run_folder, devices, expected):
    content = read_checkpoint(run_folder / "detector.ckpt")
    content["config"]["trainer"]["devices"] = devices
    assert stored_config(content, "it")["trainer"].get("devices") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "contains itself"),
        (
            "\n".join(["a: &a0 [1, 1]", *(f"b{i}: &a{i + 1} [*a{i}, *a{i}]" for i in range(30))]),
            "more than 500,000 values",
        ),
        ("[" * 1000 + "]" * 1000, "nested deeper than 50 levels"),
        ("a: " + "x" * 2**22, "characters"),
    ],
)
def test_excessive_yaml_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        check_yaml(text)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"config.yaml.*{message}"):
        read_yaml(path)
    with pytest.raises(UserError, match=message) as caught:
        parse(train.build_parser(), ["--config", str(path)])
    assert "\n" not in str(caught.value)


def test_anchors_are_accepted(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1}}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], []),
        (["--trusted", "a.B"], ["a.B"]),
        (["--trusted", "a.B", "--trusted", "timm/c"], ["a.B", "timm/c"]),
        (["--trusted", "a.B", "timm/c"], ["a.B", "timm/c"]),
    ],
)
def test_trusted_collects_all_names(words, names):
    options = parse(evaluate.build_parser(), ["--ckpt", "x", "--data.id.test", "y", *words])
    assert options.trusted == names
