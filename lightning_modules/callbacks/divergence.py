"""Stops training that has diverged."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn

from diffguard.errors import UserError
from diffguard.training.settings import TrainingSettings


class DivergenceCheck(pl.Callback):
    """Stops diverged training before a checkpoint overwrites the last good one.

    Args:
        settings: The settings of training.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the epoch's loss and the weights.

        Raises:
            UserError: If the mean loss or a trained weight is not finite.
        """
        loss = float(trainer.callback_metrics[f"{self.settings.stage}/train_loss"])
        if not math.isfinite(loss):
            raise _divergence(f"its loss is {loss}", self.settings, trainer.current_epoch)
        check_weights(pl_module, self.settings, trainer.current_epoch)


def check_weights(module: nn.Module, settings: TrainingSettings, epoch: int) -> None:
    """Raise `UserError` if a trained weight is not finite.

    Args:
        module: The module in training.
        settings: Its settings.
        epoch: The current epoch, counted from 0.
    """
    trained = [p.detach() for p in module.parameters() if p.requires_grad]
    if not torch.stack([p.isfinite().all() for p in trained]).all():
        raise _divergence("its weights are not finite", settings, epoch)


def _divergence(reason: str, settings: TrainingSettings, epoch: int) -> UserError:
    return UserError(
        f"the {settings.stage} diverged: {reason} in epoch {epoch + 1}; set a smaller "
        f"{settings.stage}.lr than {settings.lr:g} (or clip the gradients) and train again"
    )
