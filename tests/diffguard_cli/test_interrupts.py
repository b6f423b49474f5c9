"""Signals end the program."""

import signal

import pytest
from lightning.pytorch import LightningModule, Trainer

from diffguard.processes import termination
from diffguard_cli.interrupts import interruptible, leave_at_once
from tests.helpers.scoring_processes import PROCESSES


class Waiting(LightningModule):
    """Waits for its first batch forever, after Lightning has set its signal handler."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe

    def test_dataloader(self):
        self.pipe.send("waiting")
        self.pipe.recv()

    def test_step(self, batch, batch_idx):
        pass


def _wait(pipe):
    leave_at_once()
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.test(Waiting(pipe))


def test_sigterm_ends_a_run_whose_first_batch_does_not_come():
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_wait, args=(theirs,))
    process.start()
    try:
        assert ours.recv() == "waiting"
        process.terminate()
        process.join(100)
        assert process.exitcode == -signal.SIGTERM
    finally:
        process.kill()


class Launcher:
    number = None

    def kill(self, number):
        self.number = number


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_step_ends_the_processes_that_were_started(error, monkeypatch):
    launcher = Launcher()
    monkeypatch.setattr(termination, "_launchers", [launcher])
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise error
    assert launcher.number == signal.SIGTERM
