"""Starts and connects the processes of a run, and reports to the user while some are missing.

Lightning connects them by itself, but waits silently and for up to half an hour.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.distributed import PrefixStore, Store, TCPStore

from diffguard.errors import USER_ERROR, UserError
from diffguard.printing import say
from lightning_modules.termination import end_together

Result = TypeVar("Result")

# A machine may need minutes to read the libraries from a busy network disk.
_PATIENCE_SECONDS = 300.0
_NOTICE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def connect(trainer: pl.Trainer) -> None:
    """Start the other processes of a trainer, unless a launcher has done so, and connect all.

    A process that waits for others reports it after ten seconds and gives up after five minutes.
    The processes stay connected; another call does nothing.

    Args:
        trainer: A trainer of the run.

    Raises:
        UserError: If a process is missing for too long.
    """
    strategy = trainer.strategy
    if trainer.world_size == 1 or torch.distributed.is_initialized():
        return
    if strategy.launcher is not None:
        end_together(strategy.launcher)
        strategy.launcher.launch(lambda: None)
    store = _meet(trainer)
    # All have started. Without a timer, they would wait for one that dies at this moment.
    timer = threading.Timer(_PATIENCE_SECONDS, _give_up, [trainer.world_size])
    timer.daemon = True
    timer.start()
    try:
        strategy.setup_environment()
    finally:
        timer.cancel()
    # The server of the first process exists as long as a store uses it.
    del store


def first_process_does(trainer: pl.Trainer, step: Callable[[], Result]) -> Result:
    """Run a step on the first process and return its result on all of them.

    Args:
        trainer: A trainer whose processes are connected.
        step: The step.

    Raises:
        UserError: On the first process, if it failed there. The others leave the program.
    """
    result, failure = None, None
    if trainer.is_global_zero:
        try:
            result = step()
        except UserError as error:
            failure = error
    result, failed = trainer.strategy.broadcast((result, failure is not None))
    if failure is not None:
        raise failure
    if failed:
        # The first process reports the failure. Another exit code could end it before it does.
        sys.exit(0)
    return result


def _meet(trainer: pl.Trainer) -> Store:
    """Wait until every process has started."""
    rank, world = trainer.global_rank, trainer.world_size
    wait = _Wait(trainer)
    store = _open_store(trainer, wait)
    try:
        store.set(f"here/{rank}", "")
        while missing := [r for r in range(world) if not store.check([f"here/{r}"])]:
            wait.report(missing, prints=rank == min(set(range(world)) - set(missing)))
            time.sleep(_POLL_SECONDS)
    except RuntimeError as error:  # torch's error for a lost connection
        raise UserError(
            "the first process ended before all processes had started: see its message, "
            "then start again"
        ) from error
    return store


def _open_store(trainer: pl.Trainer, wait: _Wait) -> Store:
    environment = trainer.strategy.cluster_environment
    host, port = environment.main_address, environment.main_port
    # torchrun's agent holds the store of its processes and keeps it when it restarts them.
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_server = trainer.is_global_zero and not by_agent
    # For a server that is not running yet, torch prints pages of internals.
    while not is_server and not _listens(host, port):
        wait.report([0], prints=True)
        time.sleep(_POLL_SECONDS)
    try:
        store = TCPStore(
            host,
            port,
            is_master=is_server,
            wait_for_workers=False,
            multi_tenant=True,  # Lightning opens it again on the same port
            timeout=timedelta(seconds=_PATIENCE_SECONDS),
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes cannot be connected at {host}, port {port} "
            f"({str(error).splitlines()[0]}): name another MASTER_ADDR or MASTER_PORT"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"diffguard/{attempt}", store)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5.0):
            return True
    except OSError:
        return False


class _Wait:
    """Reports that processes are missing, once, and gives up in the end."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.world = trainer.world_size
        by_slurm = isinstance(trainer.strategy.cluster_environment, SLURMEnvironment)
        self.advice = "; start every task of a SLURM job with srun" if by_slurm else ""
        self._began = time.monotonic()
        self._reported = False

    def report(self, missing: list[int], *, prints: bool) -> None:
        """Report missing ranks if it is time to; raise `UserError` if it is too late."""
        waited = time.monotonic() - self._began
        ranks = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        absent = f"{len(missing)} of {self.world} processes"
        if waited >= _PATIENCE_SECONDS:
            raise UserError(
                f"{absent} did not start within {waited / 60:.0f} minutes (missing: rank {ranks}): "
                f"check whether one has failed, then start again{self.advice}"
            )
        if waited >= _NOTICE_SECONDS and not self._reported:
            self._reported = True
            if prints:
                say(
                    f"waiting for {absent} to start (missing: rank {ranks}){self.advice}",
                    file=sys.stderr,
                )


def _give_up(world: int) -> None:
    say(
        f"error: the {world} processes did not connect within {_PATIENCE_SECONDS / 60:.0f} "
        "minutes: check whether one has failed, then start again",
        file=sys.stderr,
    )
    os._exit(USER_ERROR)
