"""Logs the config of a run, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from diffguard.report.tensorboard import add_hyperparameters


class ConfigLog(pl.Callback):
    """Logs the whole config, with nested keys, as hyper-parameters.

    TensorBoard's tab HPARAMS shows them beside the last validation metrics of the stage.

    Args:
        config: The config, plain values only.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Log the config."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Name the validation metrics by which TensorBoard compares runs."""
        if not trainer.is_global_zero:  # the others have no writer
            return
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if "/val_" in name
        }
        for logger in trainer.loggers:
            if metrics and isinstance(logger, TensorBoardLogger):
                add_hyperparameters(logger.experiment, self.config, metrics)
