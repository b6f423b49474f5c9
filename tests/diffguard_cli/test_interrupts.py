"""Signals end the program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffguard.processes import termination
from diffguard_cli.interrupts import interruptible

# Scoring that waits for its first batch forever, after Lightning has set its handler.
WAITING = """
import os, sys
from diffguard_cli.interrupts import leave_at_once
leave_at_once()
from lightning.pytorch import LightningModule, Trainer

class Module(LightningModule):
    def test_dataloader(self):
        print("waiting", flush=True)
        open(sys.argv[1]).read()

    def test_step(self, batch, batch_idx):
        pass

Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).test(Module())
"""


def test_sigterm_ends_a_run_whose_first_batch_does_not_come(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, tmp_path / "pipe"],
        cwd=root, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        assert any(line.startswith("waiting") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == -signal.SIGTERM
    finally:
        process.kill()
        process.stdout.close()


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
