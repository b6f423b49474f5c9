"""Signals and the processes that a process has started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# The first of two processes, which has started the other one.
STARTING = """
import subprocess, sys, time
from diffguard_cli.interrupts import leave_at_once
from diffguard.processes.termination import end_together

class Launcher:
    def kill(self, number):
        self.process.send_signal(number)

leave_at_once()
launcher = Launcher()
end_together(launcher)
launcher.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(launcher.process.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGINT, 130, "interrupted: finished work is kept\n"),
    ],
)
def test_a_signal_ends_the_processes_that_were_started(number, code, message):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert int(process.stdout.readline()) > 0
        process.send_signal(number)
        # The pipe is closed once both processes have ended.
        assert process.communicate(timeout=100) == (message, None)
        assert process.returncode == code
    finally:
        process.kill()
        process.stdout.close()
