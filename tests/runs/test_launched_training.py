"""Training on two processes gives the same model under Lightning's launcher, torchrun and SLURM."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file

import train
from diffguard import Detector
from diffguard_cli import exit_codes as cli
from tests.helpers.commands import command
from tests.helpers.launchers import slurm
from tests.helpers.scoring_processes import PROCESSES, free_port
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
    folder = tmp_path_factory.mktemp("own") / "run"
    both = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
    result = command("train.py", "--config", config, "--run_dir", folder, *both)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Next commands") == 1
    return folder


def assert_same_run(folder, other):
    for name in STAGES:
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (Detector.load(f / "detector.ckpt").calibration.scores for f in (folder, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_torchrun_trains_the_same_model(tmp_path, config, lightning_run):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    folder = tmp_path / "run"
    result = command(*launcher, "train.py", "--config", config, "--run_dir", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Next commands") == 1
    assert_same_run(folder, lightning_run)


def _task(variables, folder, config, rank):
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.chdir(folder)
    with (folder / f"output-{rank}").open("w", buffering=1) as sys.stderr:
        sys.stdout = sys.stderr
        torch.set_num_threads(1)
        cli.run(train.main, ["--config", str(config)])


def test_slurm_tasks_agree_on_one_folder(tmp_path, config, lightning_run):
    port = free_port()
    tasks = [
        PROCESSES.Process(target=_task, args=(slurm(rank, 2, port), tmp_path, config, rank))
        for rank in range(2)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(300)
    outputs = [(tmp_path / f"output-{rank}").read_text() for rank in range(2)]
    assert [task.exitcode for task in tasks] == [0, 0], outputs
    assert "Next commands" in outputs[0]
    assert outputs[1] == ""
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert_same_run(folder, lightning_run)
