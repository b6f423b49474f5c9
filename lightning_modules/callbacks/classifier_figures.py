"""Figures of a classifier's validation: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torchmetrics.classification import MulticlassConfusionMatrix

from diffguard.report.reliability_bins import ReliabilityBins
from diffguard.report.training_figures import confusion_figure, pixels_of, reliability_figure
from lightning_modules.results_log import log_picture


class ClassifierFigures(pl.Callback):
    """Logs `classifier/confusion_matrix` and `classifier/reliability` of the validation images.

    TensorBoard and W&B show them. The module's `validation_step` returns `logits` and `labels`.

    Args:
        class_names: Names of the classes.
        every_n_epochs: Epochs between figures; the last validation always has them.
    """

    def __init__(self, class_names: Sequence[str], every_n_epochs: int = 10) -> None:
        self.class_names, self.every_n_epochs = list(class_names), every_n_epochs
        self.confusion = MulticlassConfusionMatrix(len(self.class_names))
        self.reliability = ReliabilityBins()

    def on_validation_epoch_start(
        self, _trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Start anew."""
        for metric in (self.confusion, self.reliability):
            metric.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Count the images."""
        for metric in (self.confusion, self.reliability):
            metric.update(outputs["logits"], outputs["labels"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Draw the figures, if they are due."""
        epoch = trainer.current_epoch + 1
        last, interval = trainer.max_epochs or 0, trainer.check_val_every_n_epoch or 1
        # The last validation may be earlier than the last epoch.
        is_last = last > 0 and epoch + interval > last
        if trainer.sanity_checking or not (is_last or epoch % self.every_n_epochs == 0):
            return
        # Each process takes part in the sums.
        counts, bins = self.confusion.compute(), self.reliability.compute()
        if not trainer.is_global_zero:
            return
        figures = {
            "confusion_matrix": confusion_figure(counts.cpu().numpy(), self.class_names),
            "reliability": reliability_figure(*(values.cpu().double().numpy() for values in bins)),
        }
        for name, figure in figures.items():
            step = trainer.global_step
            log_picture(trainer.loggers, f"classifier/{name}", pixels_of(figure), step)
