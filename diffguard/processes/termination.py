"""A signal ends a process together with the processes that it has started."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Protocol


class Launcher(Protocol):
    """What starts other processes, such as the launcher of a strategy of Lightning."""

    def kill(self, signum: signal.Signals) -> None:
        """Send a signal to the processes that were started."""


_launchers: list[Launcher] = []


def end_together(launcher: Launcher | None = None) -> None:
    """Let SIGTERM end this process at once, with all that its launchers have started.

    Without this, the other processes would wait for the first one until they give up.

    Args:
        launcher: A launcher of this process; None adds none.
    """
    if launcher is not None:
        _launchers.append(launcher)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)


def end_others() -> None:
    """End the processes that the launchers of this process have started."""
    for launcher in _launchers:
        launcher.kill(signal.SIGTERM)


def _end(number: int, _frame: FrameType | None) -> None:
    end_others()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
