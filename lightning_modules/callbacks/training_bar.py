"""The progress bar of a training stage."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from torch import Tensor

from diffguard.report.progress import StageProgress

# The bar shows the mean loss of about the last 20 steps.
_SMOOTHING = 0.05


class StageProgressBar(ProgressBar):
    """The stage, its progress over all epochs, the loss and the latest validation metrics.

    Args:
        title: The stage, such as "1/3 classifier".
        line_seconds: See `StageProgress`.
        console: See `StageProgress`.
    """

    def __init__(
        self, title: str, line_seconds: float = 15.0, console: Console | None = None
    ) -> None:
        super().__init__()
        self.title, self.line_seconds, self.console = title, line_seconds, console
        self._enabled = True
        self._progress: StageProgress | None = None
        self._loss: Tensor | None = None
        self._losses = 0

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Start with the steps of earlier sessions."""
        steps = trainer.estimated_stepping_batches
        total = None if steps == float("inf") else int(steps)
        self._loss, self._losses = None, 0
        self._begin(total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Average the loss; it is read only for an update, because reading waits for the device."""
        if self._progress is None:
            return
        loss = outputs["loss"].detach()
        self._losses += 1
        weight = max(_SMOOTHING, 1 / self._losses)
        self._loss = loss if self._loss is None else torch.lerp(self._loss, loss, weight)
        if self._progress.is_due:
            self._progress.update(trainer.global_step, self._describe(trainer))

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Show the last state."""
        if self._progress is not None:
            self._progress.update(trainer.global_step, self._describe(trainer))
        self._finish()

    def on_exception(self, *_: Any) -> None:
        """Leave the terminal in order."""
        self._finish(complete=False)

    def _begin(self, total: int | None, count: int) -> None:
        if self._enabled:
            self._progress = StageProgress(
                self.title, total, count=count, line_seconds=self.line_seconds, console=self.console
            )
            self._progress.start()

    def _finish(self, *, complete: bool = True) -> None:
        if self._progress is not None:
            self._progress.close(complete=complete)
            self._progress = None

    def _describe(self, trainer: Trainer) -> str:
        parts = []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            epoch = min(trainer.current_epoch + 1, trainer.max_epochs)
            parts.append(f"epoch {epoch}/{trainer.max_epochs}")
        if self._loss is not None:
            parts.append(f"loss {float(self._loss):.4f}")
        parts += [
            f"{name.rpartition('/')[2]} {float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if "/val_" in name
        ]
        return ", ".join(parts)
