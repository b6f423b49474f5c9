"""Starts and connects the processes of a run, and reports to the user while some are missing.

Lightning connects them by itself, but waits silently and for up to half an hour.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from diffguard.errors import USER_ERROR, UserError
from diffguard.printing import say
from diffguard.processes.meeting import PATIENCE_SECONDS, meet
from diffguard.processes.termination import end_together

Result = TypeVar("Result")

_SLURM_ADVICE = "; start every task of a SLURM job with srun"


def connect(trainer: pl.Trainer) -> None:
    """Start the other processes of a trainer, unless a launcher has done so, and connect all.

    A process that waits for others reports it after ten seconds and gives up after five minutes.
    The processes stay connected; another call does nothing.

    Args:
        trainer: A trainer of the run.

    Raises:
        UserError: If a process is missing for too long.
    """
    strategy: Any = trainer.strategy  # of parallel processes, if there are several
    if trainer.world_size == 1 or torch.distributed.is_initialized():
        return
    if strategy.launcher is not None:
        end_together(strategy.launcher)
        strategy.launcher.launch(lambda: None)
    environment = strategy.cluster_environment
    store = meet(
        environment.main_address,
        environment.main_port,
        trainer.global_rank,
        trainer.world_size,
        _SLURM_ADVICE if isinstance(environment, SLURMEnvironment) else "",
    )
    # All have started. Without a timer, they would wait for one that dies at this moment.
    timer = threading.Timer(PATIENCE_SECONDS, _give_up, [trainer.world_size])
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
    result: Any = None
    failure: UserError | None = None
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


def _give_up(world: int) -> None:
    say(
        f"error: the {world} processes did not connect within {PATIENCE_SECONDS / 60:.0f} "
        "minutes: check whether one has failed, then start again",
        file=sys.stderr,
    )
    os._exit(USER_ERROR)
