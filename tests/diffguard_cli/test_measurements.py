"""Compilation and bfloat16 are chosen by a measurement, once for all scores of a folder."""

import json
import re
import shutil

import pytest
import torch
from torch import nn

import train
from diffguard import Detector
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli import auto_precision, measurements
from diffguard_cli.stored_config import precision_of_calibration
from tests.helpers.commands import start
from tests.helpers.tiny_detector import build_detector

PASSES = 12


@pytest.fixture
def speeds(monkeypatch):
    """Sets the seconds of the measurements in order; returns those that are left."""
    left = []
    monkeypatch.setattr(measurements, "seconds_per_call", lambda *_: left.pop(0))
    monkeypatch.setattr(measurements, "check_compiler", lambda _device: None)
    return left


@pytest.fixture
def compiled(monkeypatch):
    """The networks that are compiled."""
    networks = []

    def compile(network, **_options):
        networks.append(network)
        network._compiled_call_impl = network._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    return networks


@pytest.fixture(scope="module")
def models():
    return build_detector(calibrated=False).models


@pytest.mark.parametrize(
    ("seconds", "expected", "tried"),
    [([0.1], False, 0), ([1.0, 0.5], True, 1), ([1.0, 0.95], False, 1), ([1.0, 1.5], False, 1)],
)
def test_compilation_must_save_a_minute(models, speeds, compiled, seconds, expected, tried):
    speeds += seconds
    pays, _ = measurements._paying_compilation(models, 8, calls=1000)
    network = models.denoiser.network
    assert (pays, len(compiled)) == (expected, tried)
    assert (network._compiled_call_impl is not None) == pays
    network._compiled_call_impl = None


def test_a_compiler_that_fails_leaves_the_network_as_it_is(models, speeds, monkeypatch):
    speeds += [1.0]

    def fail(_network, **_options):
        raise RuntimeError("no compiler\n\nhere")

    monkeypatch.setattr(nn.Module, "compile", fail)
    pays, reason = measurements._paying_compilation(models, 8, calls=1000)
    assert (pays, models.denoiser.network._compiled_call_impl) == (False, None)
    assert "no compiler" in reason


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([0.01], "32-true"), ([1.0, 0.9], "bf16-mixed"), ([1.0, 0.99], "32-true")],
)
def test_bfloat16_must_save_a_minute(models, speeds, seconds, expected):
    speeds += seconds
    precision, _ = measurements.paying_precision(models, batch_size=8, images=800)
    assert measurements.network_calls(models, 800, 8) == 100 * PASSES
    assert precision == expected


def test_a_call_is_measured(models):
    image = torch.zeros(1, 1, 8, 8)
    assert 0 < measurements.seconds_per_call(models.denoiser, image, 8) < 10


def test_a_folder_keeps_its_compilation(
    run_folder, tmp_path, speeds, compiled, capsys, monkeypatch
):
    ckpt = shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")
    words = (ckpt, "--panels", 0, "--detector.compile", "auto", "--output")
    speeds += [1e-3]
    assert start(*words, tmp_path / "short") == 0
    assert "compilation: off (a short run of about" in capsys.readouterr().err
    assert not compiled
    speeds += [1e6, 1.0]
    assert start(*words, tmp_path / "long") == 0
    assert "compilation: on (a network call takes 1 s" in capsys.readouterr().err
    for name, text in (
        ("short", "network not compiled (chosen by auto)"),
        ("long", "compiled network"),
    ):
        (cost,) = re.findall("^- Cost: .*", (tmp_path / name / "results.md").read_text(), re.M)
        assert cost.endswith(f", {text}")
    for name, mode in (("short", False), ("long", True)):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["settings"]["compile"] is mode
    # A run that resumes measures nothing.
    rows = tmp_path / "long" / "scores" / "rank-0.csv"
    rows.write_bytes(rows.read_bytes()[:900])
    compiled.clear()
    assert start(*words, tmp_path / "long") == 0
    assert len(compiled) == 1
    assert not speeds


def test_the_precision_of_a_calibration_is_measured_once(
    run_folder, data_root, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("calibration", "*.ckpt"))
    answers = ["bf16-mixed"]
    monkeypatch.setattr(auto_precision, "paying_precision", lambda *_: (answers.pop(), "a test"))
    words = ["--resume", str(folder), "--stages", "[calibrate]", "--trainer.precision", "auto"]
    for _ in range(2):
        assert train.main(words) == 0
        (folder / "detector.ckpt").rename(tmp_path / "detector.ckpt")
    assert not answers
    manifest = json.loads((folder / "calibration" / "manifest.json").read_text())
    assert manifest["precision"] == "bf16-mixed"
    stored = Detector.load(tmp_path / "detector.ckpt").origin.config
    assert stored["trainer"]["precision"] == stored["auto_precision"] == "bf16-mixed"
    config = TrainerConfig(precision="auto")
    assert precision_of_calibration(config, stored).precision == "bf16-mixed"
    assert precision_of_calibration(TrainerConfig(), stored).precision == "32-true"
