"""Processes that connect, and the messages while some are missing."""

import os
import time

import pytest
from lightning.pytorch.utilities import rank_zero_only

from diffguard.errors import UserError
from diffguard.processes import meeting
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.connection import connect, first_process_does
from lightning_modules.trainer import scoring_trainer
from tests.helpers.launchers import slurm
from tests.helpers.scoring_processes import PROCESSES, free_port


def trainer_of(rank, world, port):
    os.environ |= {name: str(value) for name, value in slurm(rank, world, port).items()}
    return scoring_trainer(TrainerConfig(accelerator="cpu", progress=False), "test")


@pytest.fixture
def _environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(("rank", "missing"), [(0, "1"), (1, "0")])
def test_missing_processes_are_named_and_waited_for_only_a_while(
    monkeypatch, capsys, rank, missing
):
    for name, value in slurm(rank, 2, free_port()).items():
        os.environ[name] = str(value)
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setattr(meeting, "_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.5)
    trainer = scoring_trainer(TrainerConfig(accelerator="cpu", progress=False), "test")
    with pytest.raises(UserError, match="1 of 2 processes did not start within") as caught:
        connect(trainer)
    assert f"(missing: rank {missing})" in str(caught.value)
    assert capsys.readouterr().err == (
        f"waiting for 1 of 2 processes to start (missing: rank {missing}); start every task of a "
        "SLURM job with srun\n"
    )


def _late_process(rank, port, folder, fails):
    meeting._NOTICE_SECONDS = 0.3
    trainer = trainer_of(rank, 2, port)
    time.sleep(rank)
    connect(trainer)
    connect(trainer)

    def step():
        if fails:
            raise UserError("no")
        return os.getpid()

    try:
        (folder / f"{rank}").write_text(str(first_process_does(trainer, step)))
    except UserError as error:
        (folder / f"{rank}").write_text(str(error))


@pytest.mark.parametrize("fails", [False, True])
def test_the_first_process_acts_for_all(tmp_path, fails):
    port = free_port()
    processes = [
        PROCESSES.Process(target=_late_process, args=(rank, port, tmp_path, fails))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    outputs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert outputs == ({"0": "no"} if fails else dict.fromkeys("01", str(processes[0].pid)))
