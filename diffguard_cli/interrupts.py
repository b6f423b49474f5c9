"""Ctrl-C and SIGTERM end the program at any moment; Ctrl-C prints one line and exits with 130.

This module imports nothing that loads slowly.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from diffguard.processes.termination import end_others

INTERRUPTED = 130
MESSAGE = "interrupted: finished work is kept"


def leave_at_once() -> None:
    """From now on, let Ctrl-C and SIGTERM end the program at once.

    Libraries that are being imported swallow an exception, or abort on it. Files on disk are
    complete at any moment, so no cleanup is needed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    # Lightning passes the signal to the other processes, waits for the end of the batch, which may
    # never come, and calls the handler that was installed before its own: this one.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def is_first_process() -> bool:
    """Whether this is the first process of its run, according to the launcher's variables."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def is_reporting() -> bool:
    """Whether this process reports a user's mistake.

    Processes that torchrun or SLURM started on one machine make the same mistakes until they are
    connected, so the first of them reports.
    """
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        return True
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        return True
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def _leave(_number: int, _frame: FrameType | None) -> None:
    end_others()
    if is_first_process() and multiprocessing.parent_process() is None:
        os.write(2, f"{MESSAGE}\n".encode())
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, and end the processes that this one has started.

    Lightning's Trainer turns the exception into an exit, which is turned back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        end_others()
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
