"""Training in legs: a time limit, and how fast a leg was against what the device can do."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from diffguard.errors import UserError
from lightning_modules.base import TrainingModule
from lightning_modules.trainer import TrainerConfig


class TimeIsUpError(Exception):
    """Training reached its time limit; its state is kept."""


def deadline_of(config: TrainerConfig, began: float) -> float | None:
    """When training that began at a moment of `time.monotonic`'s clock has to stop.

    Raises:
        UserError: If it may not last at all.
    """
    if config.max_minutes is None:
        return None
    if not 0 < config.max_minutes < math.inf:
        raise UserError(
            f"trainer.max_minutes must be positive and finite, got {config.max_minutes:g}"
        )
    return began + 60.0 * config.max_minutes


class TimeLimit(Callback):
    """Stops training at a moment, in the middle of an epoch too, and keeps what it takes to go on.

    Args:
        deadline: The moment on `time.monotonic`'s clock.
        path: The stage's checkpoint.
    """

    def __init__(self, deadline: float, path: Path) -> None:
        self.deadline, self.path = deadline, path
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Note how many steps were made before."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: TrainingModule, *_: Any) -> None:
        """Stop after the first step that ends too late.

        Raises:
            TimeIsUpError: Always then; on all processes.
            UserError: If training has diverged; the last checkpoint is then as before.
        """
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped:
            return  # gradients that are still being accumulated are in no checkpoint
        if trainer.is_last_batch:
            return  # what ends an epoch is still to come, and does not come in another leg
        late = time.monotonic() >= self.deadline
        if trainer.world_size > 1:
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if late:
            pl_module.check_finite()
            trainer.save_checkpoint(self.path)
            raise TimeIsUpError(
                f"time is up at step {trainer.global_step} of {trainer.estimated_stepping_batches}"
            )
