"""Loggers of training and evaluation, by name or by class path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from diffguard.errors import UserError
from diffguard.training.class_paths import ClassEntry, build
from diffguard.training.trainer_config import LoggerName


def build_loggers(
    loggers: Iterable[LoggerName | ClassEntry], folder: Path, stage: str
) -> list[Logger]:
    """The loggers of one stage of a run.

    Args:
        loggers: `tensorboard` writes to `tensorboard/<stage>` in the folder, `csv` to a new version
            of `csv/<stage>` for each session, and `wandb` to the project `diffguard`. An entry with
            a class path names a logger class and its arguments.
        folder: The run's folder.
        stage: The stage, or `evaluation`.

    Raises:
        UserError: If a package is missing, or a class cannot be built.
    """
    return [_build(logger, folder, stage) for logger in loggers]


def end_runs(loggers: Iterable[Logger]) -> None:
    """End the runs of W&B.

    A process has one of them at a time, and the next stage would continue it.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _build(name: LoggerName | ClassEntry, folder: Path, stage: str) -> Logger:
    if isinstance(name, Mapping):
        return build(name, Logger, "trainer.loggers")  # type: ignore[type-abstract]
    if name == "csv":
        return CSVLogger(folder / "csv", name=stage)
    if name == "tensorboard":
        # `log_hyperparams` is called with metrics of its own.
        return TensorBoardLogger(folder, name="tensorboard", version=stage, default_hp_metric=False)
    try:
        return WandbLogger(name=f"{folder.name}/{stage}", save_dir=folder, project="diffguard")
    except ModuleNotFoundError as error:
        raise UserError(
            "trainer.loggers names wandb, which is not installed: pip install wandb"
        ) from error
