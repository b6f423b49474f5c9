"""Arrangement of the charts of training in TensorBoard."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from diffguard.report.tensorboard import add_layout

_CHARTS = {
    "loss": "(train|val)_loss",
    "learning rate": "learning_rate",
    "images per second": "images_per_second",
}
_CHARTS_OF_CLASSIFIERS = {"accuracy": "(train|val)_accuracy"}
_CHARTS_OF_DIFFUSION = {"loss by noise level": "loss_at_noise/.*"}


class ChartLayout(pl.Callback):
    """Arranges the tab CUSTOM SCALARS: curves of training and validation in the same chart.

    Args:
        stage: The stage, with which the names of its metrics begin.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write the layout."""
        if not trainer.is_global_zero:  # the others have no writer
            return
        is_diffusion = self.stage == "diffusion"
        charts = _CHARTS | (_CHARTS_OF_DIFFUSION if is_diffusion else _CHARTS_OF_CLASSIFIERS)
        tags = {title: [f"{self.stage}/{pattern}"] for title, pattern in charts.items()}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_layout(logger.experiment, {self.stage.replace("_", " ").capitalize(): tags})
