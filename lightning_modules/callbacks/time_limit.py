"""Time-limited training: it stops in the middle of an epoch and resumes from there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from lightning_modules.callbacks.divergence import check_weights


class TimeIsUpError(Exception):
    """Training has reached its time limit; its state is saved."""


class TimeLimit(Callback):
    """Stops training at a given time, even in the middle of an epoch, and saves its state.

    Args:
        deadline: The time, on the clock of `time.monotonic`.
        path: The stage's checkpoint.
    """

    def __init__(self, deadline: float, path: Path) -> None:
        self.deadline, self.path = deadline, path
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Remember the number of earlier steps."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Stop after the first step that ends too late.

        Raises:
            TimeIsUpError: After that step, on all processes.
            UserError: If training has diverged; the last checkpoint is then left as it was.
        """
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped:
            return  # checkpoints do not hold gradients that are still being accumulated
        if trainer.is_last_batch:
            return  # the hooks at the end of an epoch would not run after a resume
        late = time.monotonic() >= self.deadline
        if trainer.world_size > 1:
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if late:
            check_weights(pl_module, pl_module.settings, trainer.current_epoch)
            trainer.save_checkpoint(self.path)
            raise TimeIsUpError(
                f"time is up at step {trainer.global_step} of {trainer.estimated_stepping_batches}"
            )
