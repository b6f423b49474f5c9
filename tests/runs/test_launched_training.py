"""Training on two processes gives the same model under Lightning's launcher, torchrun and SLURM."""

import pytest
import torch
from safetensors.torch import load_file

from diffguard import Detector
from tests.helpers.launchers import under_lightning, under_slurm, under_torchrun
from tests.helpers.tiny_project import write_config

STAGES = ("classifier/classifier", "diffusion/unet/diffusion_pytorch_model")


@pytest.fixture(scope="module")
def config(tmp_path_factory, data_root):
    path = tmp_path_factory.mktemp("launched") / "tiny.yaml"
    return write_config(
        path, data_root, trainer={"threads": 1}, classifier={"max_epochs": 2, "lr": 0.01}
    )


@pytest.fixture(scope="module")
def lightning_run(tmp_path_factory, config):
    """A run whose second process was started by Lightning."""
    folder = tmp_path_factory.mktemp("own")
    output = under_lightning("train", ["--config", config, "--run_dir", "run"], folder)
    assert output.count("Next commands") == 1
    return folder / "run"


def assert_same_run(folder, other):
    for name in STAGES:
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (Detector.load(f / "detector.ckpt").calibration.scores for f in (folder, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_torchrun_trains_the_same_model(tmp_path, config, lightning_run):
    words = ["--config", config, "--run_dir", "run"]
    first, second = under_torchrun("train", words, tmp_path)
    assert first.count("Next commands") == 1
    assert second == ""
    assert_same_run(tmp_path / "run", lightning_run)


def test_slurm_tasks_agree_on_one_folder(tmp_path, config, lightning_run):
    first, second = under_slurm("train", ["--config", config], tmp_path)
    assert "Next commands" in first
    assert second == ""
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert_same_run(folder, lightning_run)
