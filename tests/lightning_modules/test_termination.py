"""SIGTERM and the processes that a process has started."""

import signal
import subprocess
import sys
from pathlib import Path

# The first of two processes, which has started the other one.
STARTING = """
import subprocess, sys, time
from lightning_modules.termination import end_together

class Launcher:
    def kill(self, number):
        self.process.send_signal(number)

launcher = Launcher()
end_together(launcher)
launcher.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(launcher.process.pid, flush=True)
time.sleep(300)
"""


def test_sigterm_ends_the_processes_that_were_started():
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING], cwd=root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert int(process.stdout.readline()) > 0
        process.send_signal(signal.SIGTERM)
        # The pipe is closed once both processes have ended.
        assert process.communicate(timeout=100) == ("", None)
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()
        process.stdout.close()
