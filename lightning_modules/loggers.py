"""Loggers of training and evaluation by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from diffguard.errors import UserError

LoggerName = Literal["tensorboard", "csv", "wandb"]


def build_loggers(names: Iterable[LoggerName], folder: Path, stage: str) -> list[Logger]:
    """The loggers of one stage of a run.

    Args:
        names: `tensorboard` writes to `tensorboard/<stage>` in the folder, `csv` to a new version
            of `csv/<stage>` for each session, and `wandb` to the project `diffguard`.
        folder: The run's folder.
        stage: The stage, or `evaluation`.

    Raises:
        UserError: If a package is missing.
    """
    return [_build(name, folder, stage) for name in names]


def _build(name: LoggerName, folder: Path, stage: str) -> Logger:
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
