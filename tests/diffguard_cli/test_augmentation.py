"""The stage `augment` on tiny data."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import train
from diffguard.augment import cache
from diffguard.errors import UserError
from diffguard_cli import augmentation
from tests.helpers.tiny_project import write_config


@pytest.fixture
def config(tmp_path, data_root):
    return write_config(tmp_path / "tiny.yaml", data_root)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 8 of the 36 training images."""
    monkeypatch.setattr(cache, "BLOCK", 8)


@pytest.fixture
def start(config, run_folder):
    """Run stages with the diffusion model of another run."""

    def start(folder, stages, *arguments):
        words = ["--config", config, "--run_dir", folder, "--stages", f"[{stages}]"]
        words += ["--diffusion.ckpt", run_folder / "diffusion"]
        words += ["--augment.method", "diffusemix", "--augment.steps", 4, *arguments]
        return train.main([str(word) for word in words])

    return start


@pytest.fixture
def judge(run_folder):
    return ["--augment.classifier", run_folder / "classifier" / "classifier.safetensors"]


def test_edits_are_made_once_and_the_classifier_trains_with_them(start, judge, tmp_path, capsys):
    shared = ["--augment.cache", tmp_path / "cache"]
    one = ["--classifier.max_epochs", 1]
    assert start(tmp_path / "a", "augment, classifier", *judge, *shared, *one) == 0
    printed = capsys.readouterr().err
    assert re.search(
        r"1/2 augment: 36 edits of 9 network passes, 324 in all, about \d+:\d\d; rejected", printed
    )
    assert "of 36 images edited; rejected edits: " in printed
    (folder,) = (tmp_path / "cache").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["edits.json", "edits.npy"]
    assert np.load(folder / "edits.npy").shape == (36, 1, 8, 8)
    # Eight columns of originals, edits, fractals and the four mixtures, of all classes.
    with Image.open(tmp_path / "a" / "augment.png") as sheet:
        assert sheet.size == (8 * (8 + 1) + 1, 7 * (8 + 1) + 1)
        firsts = np.asarray(sheet)[1:9, :, 0]
    assert not np.array_equal(firsts[:, 1:9], firsts[:, -9:-1])
    record = json.loads((tmp_path / "a" / "augment.json").read_text())
    assert record == {"edits": str(folder.resolve())}
    # Another run uses them; the mixtures change the classifier.
    changed = (folder / "edits.npy").stat().st_mtime_ns
    no_mixtures = ["--augment.share", 0]
    assert start(tmp_path / "b", "augment, classifier", *judge, *shared, *one, *no_mixtures) == 0
    assert (folder / "edits.npy").stat().st_mtime_ns == changed
    assert "network passes" not in capsys.readouterr().err
    weights = [(tmp_path / n / "classifier" / "classifier.safetensors").read_bytes() for n in "ab"]
    assert weights[0] != weights[1]


def test_another_schedule_makes_other_edits(start, run_folder, tmp_path):
    other = shutil.copytree(run_folder / "diffusion", tmp_path / "other")
    (path,) = other.glob("**/scheduler_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.005}))
    shared = ["--augment.cache", tmp_path / "cache", "--augment.attempts", 1]
    for name, options in (("a", []), ("b", ["--diffusion.ckpt", other])):
        assert start(tmp_path / name, "augment", *shared, *options) == 0
    one, two = ((p / "edits.npy").read_bytes() for p in (tmp_path / "cache").iterdir())
    assert one != two


def test_the_seed_of_the_run_is_that_of_data_and_mixtures(start, tmp_path, capsys):
    options = ["--seed", 3, "--augment.attempts", 1, "--augment.steps", 2]
    assert start(tmp_path / "run", "diffusion", *options) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["seed"] == config["augment"]["seed"] == 3
    # The next command does everything that is left.
    assert "--stages '[augment, classifier, calibrate]'" in capsys.readouterr().out
    assert start(tmp_path / "other", "diffusion", *options, "--data.seed", 1) == 0
    config = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    assert (config["data"]["seed"], config["augment"]["seed"]) == (1, 3)


def test_a_time_limit_keeps_the_blocks(start, tmp_path, capsys):
    assert start(tmp_path / "run", "augment", "--trainer.max_minutes", 1e-6) == 4
    assert "time is up with 5 of 5 blocks left" in capsys.readouterr().err
    assert not (tmp_path / "run" / "augment.json").exists()


def test_images_of_validation_and_test_are_not_edited(start, tmp_path, monkeypatch):
    labels = []
    make = augmentation.make_edits

    def remember(editor, images, classes, *rest):
        labels.append(classes)
        return make(editor, images, classes, *rest)

    monkeypatch.setattr(augmentation, "make_edits", remember)
    assert start(tmp_path / "run", "augment", "--augment.attempts", 1) == 0
    assert torch.cat(labels).bincount().tolist() == [12, 12, 12]


@pytest.mark.parametrize(
    ("stages", "arguments", "message"),
    [
        ("classifier, augment", [], "name augment before it"),
        ("augment, diffusion", [], "name diffusion before it"),
        ("augment, classifier", ["--classifier.ckpt", "c.pt"], "augment.classifier c.pt makes it"),
        ("classifier", [], "add augment to --stages"),
        ("augment", ["--augment.method", "none"], "no edits with augment.method none"),
        ("augment", ["--augment.depth", "0"], r"augment.depth must be in \(0, 1\], got 0"),
        ("augment", ["--augment.classifier", "absent"], "augment.classifier absent does not exist"),
    ],
)
def test_mistakes_are_one_line(start, tmp_path, stages, arguments, message):
    with pytest.raises(UserError, match=message):
        start(tmp_path / "run", stages, *arguments)


def test_options_without_a_method_are_refused(config):
    argv = ["--config", str(config), "--augment.share", "0.3"]
    with pytest.raises(UserError, match=r"--augment\.share has no effect.*augment.method is none"):
        train.main(argv)
