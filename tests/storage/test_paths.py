"""`~`, empty paths, and paths that lead to no file; wherever a path is given."""

import os

import pytest
import torch
import yaml
from PIL import Image

import train
from datamodules.sources import open_set, same_source
from diffguard import Detector
from diffguard.errors import UserError
from diffguard.storage.foreign import read_foreign
from diffguard.storage.paths import require_file, user_path
from diffguard_cli.compact import main as compact
from diffguard_cli.parser import parse

KEYS = ("run_dir", "data.root", "classifier.ckpt", "diffusion.ckpt", "detector.perceptual_weights")


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "a home@work: 1"
    (folder / "data").mkdir(parents=True)
    Image.new("L", (3, 3), 51).save(folder / "data" / "x.png")
    (folder / "data" / "list.txt").write_text("x.png 0\n")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_every_path_of_the_command_line_and_of_configs_may_begin_at_home(home):
    parser = train.build_parser()
    data = {"id": {"train": "digits:0-5"}}
    sections = {"data": {**data, "root": "~/r"}, "classifier": {"ckpt": "~/c"}}
    (home / "x.yaml").write_text(yaml.safe_dump(sections))
    argv = ["--config=~/x.yaml", *(f"--{key}=~/{key}" for key in KEYS if key != "classifier.ckpt")]
    config = parse(parser, argv)
    assert config["classifier.ckpt"] == str(home / "c")
    for key in KEYS:
        assert config[key].startswith(str(home))


@pytest.mark.parametrize(
    "source",
    ["~/data", "folder:~/data", "~/data/list.txt", "imglist:~/data/list.txt@~/data"],
)
def test_every_source_may_begin_at_home_and_hold_any_sign(home, source):
    images = open_set("mine", source, root="~/data", labeled=False)
    assert [images.path(i) for i in range(len(images))] == ["x.png"]
    assert images.image(0).mean().item() == pytest.approx(0.2)
    assert same_source(source, source.replace("~", str(home)), "~/data")
    assert not same_source(source, "~/da@ta", "~/data")


def test_unknown_home_empty_path_and_nul_are_reported_in_one_line(monkeypatch):
    for path, reason in (
        ("", "is empty"),
        ("a\0b", "NUL"),
        ("~nobody-has-this/x", "is unknown"),
        (f"a/{'ü' * 128}/b", "too long"),
        ("a/" * 2500, "too long"),
    ):
        with pytest.raises(UserError, match=f"^--output .*{reason}"):
            user_path(path, "--output")
    with pytest.raises(UserError, match="home folder is unknown"):
        Detector.load("~nobody-has-this/detector.ckpt")
    with pytest.raises(UserError, match="home folder is unknown"):
        compact(["~nobody-has-this/run", "x"])
    assert str(user_path("a~b", "--output")) == "a~b"


def test_special_files_are_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "link.ckpt").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("link", "a device")):
        path = tmp_path / f"{name}.ckpt"
        for read in (Detector.load, read_foreign, lambda path: require_file(path, "file")):
            with pytest.raises(UserError, match=rf"{name}\.ckpt .*is {kind}"):
                read(path)
        with pytest.raises(UserError, match=f"it is {kind}|is not a file"):
            parse(train.build_parser(), ["--config", str(path)])
    torch.save({}, tmp_path / "file.ckpt")
    assert require_file(tmp_path / "file.ckpt", "file") == tmp_path / "file.ckpt"
