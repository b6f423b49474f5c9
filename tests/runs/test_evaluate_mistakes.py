"""Mistakes on the command line of evaluate.py give one line each."""

import pytest
import torch

import evaluate
from diffguard.errors import UserError
from tests.helpers.commands import start


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scores", "nowhere"], "nowhere is not an evaluation"),
        (["--scores", "a", "b"], "--output is missing"),
        (["--scores"], "--scores: expected at least one argument"),
        (["--scores", "a", "--ckpt", "b"], "leave out --ckpt"),
        (["--scores", "a", "--panels", "3"], "--panels"),
        (["--scores", "a", "--fuse.x", "msp"], "--fuse"),
    ],
)
def test_mistakes_with_tables_are_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        evaluate.main(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("text", "cannot be read|was refused"),
        ("truncated", "cannot be read|was refused"),
        ("foreign", "not a detector checkpoint"),
        ("version", "format version 99"),
        ("damaged", "is damaged"),
        ("malicious", "was refused"),
        ("class", "--trusted os.path.Evil"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_line(kind, message, ckpt, tmp_path):
    bad = tmp_path / "bad.ckpt"
    content = torch.load(ckpt, weights_only=True)
    if kind == "folder":
        bad.mkdir()
    elif kind == "text":
        bad.write_text("hello")
    elif kind == "truncated":
        bad.write_bytes(ckpt.read_bytes()[:5000])
    elif kind == "foreign":
        torch.save({"state_dict": {"w": torch.zeros(2)}}, bad)
    elif kind == "version":
        torch.save(content | {"version": 99}, bad)
    elif kind == "damaged":
        torch.save({k: v for k, v in content.items() if k != "calibration"}, bad)
    elif kind == "malicious":
        torch.save(content | {"extra": Malicious(tmp_path / "ran")}, bad)
    elif kind == "class":
        content["classifier"]["spec"]["arch"] = "os.path.Evil"
        torch.save(content, bad)
    with pytest.raises(UserError, match=message) as caught:
        start(bad)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "nowhere"),
        (["--images", "."], "has no images"),
        (["--images", ""], "--images is empty"),
        (["--accept", "2"], "--accept must lie between 0 and 1"),
        (["--fdr", "0"], "--fdr must lie between 0 and 1"),
        (["--fdr", "0.1"], "--fdr has no effect here, because it judges the images"),
        (["--images", ".", "--fdr", "0.1", "--accept", "0.9"], "two rules of decision"),
        (["--data.batch_size", "-1"], "data.batch_size must be at least 1"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--detector.decision", "nope"], "no score 'nope'"),
        (["--detector.distance", "[nope]"], "unknown distance 'nope': choose from l1"),
        (
            ["--detector.early_stop.thresholds", "{psnr:20}"],
            "'{name: value}', with a space",
        ),
        (["--detector.label", "oracle", "--images", "."], "oracle, a mode for studies"),
        (["--nonsense", "1"], "--nonsense"),
        (["--data.image_size", "16"], "data.image_size 16 and data.channels 1 differ from those of"),
        (["--data.channels", "3"], "data.channels 3 differ from those of the detector, 8 and 1"),
        (["--data.class_names", "[left, dots, right]"], "are in another order than the detector's"),
        (["--data.ood.far.x", "folder:test"], "'shapes' and 'x' have images in common"),
        (["--detector.distances", "[]"], "detector.unguided name no distance: name one"),
        (["--detector.baselines", "[msp, msp]"], "detector.baselines names msp more than once"),
        (["--detector.sampler.steps", "0"], "detector.sampler.steps must be at least 1, got 0"),
        (["--detector.classifier_free.scale", "-1"], "detector.classifier_free.scale must be at least 0"),
        (["--trainer.max_minutes", "0"], "trainer.max_minutes must be positive"),
        (["--trainer.log_every_n_steps", "0"], "trainer.log_every_n_steps must be at least 1"),
        (["--trainer.devices", "1000000000"], "must be 1 to 1,024, got 1,000,000,000"),
        (["--trusted", "[a.B, c.D]"], "several as --trusted a.Net --trusted b.Net"),
        (["--trusted", ""], "--trusted '' is not the name of a class or an architecture"),
        (["--panels", "-1"], "--panels must be at least 0, got -1"),
        (["--fuse.x", "[msp, knn]"], "--fuse needs --scores"),
        (["--trainer.devices", "[x"], "trainer: `devices`"),
        (["--dry_run", "--trainer.precision", "x"], "precision must be one of 32-true"),
        (["--dry_run", "--trainer.max_minutes=9"], "--trainer.max_minutes has no effect here"),
        (["--explain"], "--explain has no effect here, because it judges the images of --images"),
        (["--images", ".", "--data.ood.far.x", "x"], "--data.ood.far.x has no effect here"),
        (["--accept", "0.9"], "--accept has no effect here, because it judges the images"),
        (["--trainer.max_minutes", "9"], "max_minutes has no effect here, because it belongs to tr"),
        (["--data.augment", "flip"], "--data.augment has no effect here"),
        (["--trainer.callbacks", "[]"], "--trainer.callbacks has no effect here"),
        (["--trainer.loggers", "[{class_path: no_such.Log}]"], "loggers: class 'no_such.Log' cannot"),
    ],
)
def test_mistakes_are_one_line(ckpt, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError) as caught:
        start(ckpt, *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--detector.synthesis.skip", "4"], "detector.synthesis.skip must be 0 to 3, below"),
        (["--detector.sampler.steps", "1001"], "detector.sampler: steps must be 1 to 1,000"),
        (
            ["--detector.early_stop", "{thresholds: {psnr: null}, mean_depth: 0.01}"],
            "detector.early_stop.mean_depth must lie between 0.25",
        ),
        (
            ["--detector.distances", "[l2, lpips]", "--detector.perceptual_weights", "nowhere"],
            "nowhere",
        ),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused_before_a_calibration(
    ckpt, capsys, words, message
):
    with pytest.raises(UserError, match=message):
        start(ckpt, *words)
    assert "calibrating" not in capsys.readouterr().err


def test_without_ood_sets_nothing_is_scored(ckpt):
    with pytest.raises(UserError, match=r"no OOD set .* --data\.ood\.far\.NAME .* --images"):
        start(ckpt, "--data.ood.near", "{}", "--data.ood.far", "{}")
    assert not (ckpt.parent / "evaluation").exists()
