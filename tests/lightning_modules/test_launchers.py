"""The number of processes from the variables of torchrun, SLURM and other launchers."""

import os

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from diffguard.errors import UserError
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.launchers import process_arguments
from lightning_modules.trainer import scoring_trainer

USUAL = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_JOB_NAME": "scores",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "gpu[3-4]",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    before = dict(os.environ)
    for name in before:
        if name.startswith("SLURM_") or name in {*USUAL, "LOCAL_WORLD_SIZE", "NODE_RANK"}:
            del os.environ[name]
    # A Trainer sets this for the whole program.
    monkeypatch.setattr(rank_zero_only, "rank", rank_zero_only.rank)
    yield
    # Lightning sets variables too; they must not affect the processes of other tests.
    os.environ.clear()
    os.environ.update(before)


def place(monkeypatch, variables, **config):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = TrainerConfig(accelerator="cpu", progress=False, **config)
    trainer = scoring_trainer(config, "test")
    where = trainer.strategy.cluster_environment
    place = (trainer.global_rank, trainer.local_rank, trainer.world_size, trainer.num_nodes)
    return place, where


def test_without_a_launcher_the_config_decides():
    assert process_arguments(3, 2) == {"devices": 3, "num_nodes": 2}


def test_ranks_of_torchrun_are_used(monkeypatch):
    variables = {**USUAL, "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
    # The number in the config, of the machine that trained, does not matter.
    ranks, environment = place(monkeypatch, variables, devices=1)
    assert ranks == (5, 1, 8, 2)
    assert isinstance(environment, TorchElasticEnvironment)
    assert (environment.main_address, environment.main_port) == ("127.0.0.1", 29500)


def test_a_launcher_without_local_world_size_works(monkeypatch):
    ranks, _ = place(monkeypatch, USUAL, num_nodes=2)
    assert ranks == (5, 1, 8, 2)


def test_ranks_of_slurm_are_used(monkeypatch):
    ranks, environment = place(monkeypatch, SLURM)
    assert ranks == (5, 1, 8, 2)
    assert isinstance(environment, SLURMEnvironment)
    assert environment.main_address == "gpu3"
    assert not environment.auto_requeue


def test_a_slurm_job_of_one_task_is_one_process(monkeypatch):
    single = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "1"}
    variables = {**SLURM, **single, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = scoring_trainer(TrainerConfig(accelerator="cpu", progress=False), "test")
    assert trainer.world_size == 1


def test_variables_that_contradict_each_other_are_one_line(monkeypatch):
    variables = {name: value for name, value in SLURM.items() if name != "SLURM_NTASKS_PER_NODE"}
    with pytest.raises(UserError, match=r"trainer: .*--ntasks-per-node"):
        place(monkeypatch, variables)
