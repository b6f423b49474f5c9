"""Builds a Trainer from the config, for training and for scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from diffguard.errors import UserError, one_line
from diffguard.processes.termination import end_together
from diffguard.training.class_paths import class_of
from diffguard.training.precision import AUTO, FULL_PRECISION, check_device, weight_dtype
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.callbacks.scoring_bar import ScoringProgressBar
from lightning_modules.callbacks.training_bar import StageProgressBar
from lightning_modules.launchers import process_arguments
from lightning_modules.quiet import quiet_libraries


def build_trainer(
    config: TrainerConfig,
    title: str,
    callbacks: list[pl.Callback] | None = None,
    bar: type[StageProgressBar] = StageProgressBar,
    **options: Any,
) -> pl.Trainer:
    """Build a Trainer.

    Args:
        config: The `trainer` section.
        title: Title of the progress bar.
        callbacks: Further callbacks.
        bar: Class of the progress bar.
        **options: Further arguments of the Trainer.

    Raises:
        UserError: For values that Lightning or the machine rejects.
    """
    bars: list[pl.Callback] = [bar(title)] if config.progress else []
    # Importing Lightning turns its advice on.
    quiet_libraries()
    precision = FULL_PRECISION if config.precision == AUTO else config.precision
    try:
        processes = process_arguments(config.devices, config.num_nodes)
        plugins = [*processes.pop("plugins", []), *options.pop("plugins", [])]
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            **processes,
            plugins=plugins or None,
            strategy=config.strategy,
            precision=precision,  # type: ignore[arg-type]
            callbacks=[_Threads(config.threads), *bars, *(callbacks or [])],
            enable_progress_bar=config.progress,
            # The loaders divide the images themselves, so no image is repeated.
            use_distributed_sampler=False,
            **{"enable_model_summary": False, **options},
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {one_line(error)}") from error
    _check_strategy(trainer, config.strategy, processes["devices"])
    check_device(config.precision, trainer.strategy.root_device)
    _set_threads(config.threads, trainer)
    return trainer


def _set_threads(threads: int | None, trainer: pl.Trainer) -> None:
    """Give this process the CPU threads that it will have once the others have started.

    Lightning divides the cores only when it starts them. What this process fits before would then
    differ in the last bits from what the others fit.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif trainer.strategy.launcher is not None:
        _set_num_threads_if_needed(trainer.num_devices)


def _check_strategy(trainer: pl.Trainer, strategy: str, devices: int | str) -> None:
    """Raise `UserError` for a strategy that cannot use the devices, or forks its processes."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(
            f"trainer.strategy {strategy} starts new processes in each stage, and loses what the "
            "earlier ones have computed: use ddp"
        )
    if isinstance(devices, int) and devices > 1 and trainer.num_devices == 1:
        raise UserError(
            f"trainer.strategy {strategy} uses one device, not {devices}: use ddp, or set "
            "trainer.devices to 1"
        )


class _Threads(pl.Callback):
    """Sets the number of CPU threads after Lightning has divided the cores among the processes."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        if self.threads is not None:
            torch.set_num_threads(self.threads)


class _EndAtOnce(pl.Callback):
    """Lets SIGTERM end a process that scores; what it has finished is on disk.

    Lightning would notify the other processes first, and wait for one that may be dead.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        end_together()


def scoring_trainer(config: TrainerConfig, title: str) -> pl.Trainer:
    """A Trainer for scoring, without logger and checkpoints.

    Under `bf16-true` and `16-true`, only the weights of the diffusion model have half precision
    (see `weight_dtype`); images, states and scores stay float32.
    """
    if weight_dtype(config.precision) != torch.float32:
        config = replace(config, precision="32-true")
    # Otherwise a GPU may sum the gradient of a convolution in a different order each time.
    torch.backends.cudnn.deterministic = True
    return build_trainer(
        config,
        title,
        [_EndAtOnce()],
        bar=ScoringProgressBar,
        logger=False,
        enable_checkpointing=False,
    )


def check_classes(config: TrainerConfig) -> None:
    """Import the classes of loggers, callbacks and profiler, and check their arguments.

    Args:
        config: The `trainer` section.

    Raises:
        UserError: If a class cannot be imported, is of another kind, or does not take its
            arguments.
    """
    for entry in config.logger_classes:
        class_of(entry, Logger, "trainer.loggers")  # type: ignore[type-abstract]
    for entry in config.callbacks:
        class_of(entry, pl.Callback, "trainer.callbacks")
    if isinstance(config.profiler, Mapping):
        class_of(config.profiler, Profiler, "trainer.profiler")  # type: ignore[type-abstract]
