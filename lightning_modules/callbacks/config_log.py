"""Logs the config of a run, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl


class ConfigLog(pl.Callback):
    """Logs the whole config, with nested keys, as hyper-parameters.

    TensorBoard's tab HPARAMS has the columns of one stage only: those of the evaluation.

    Args:
        config: The config, plain values only.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Log the config."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config)
