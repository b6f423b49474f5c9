"""A grid of samples of the diffusion model in training."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torchvision.utils import make_grid

from diffguard.denoisers.sampling import draw_samples
from diffguard.errors import UserError
from lightning_modules.results_log import log_picture


class SampleGrid(Callback):
    """Logs samples of the averaged weights as `diffusion/samples`, a row per class.

    TensorBoard and W&B show them. The noise is the same every time, so that the pictures can be
    compared over time.

    Args:
        every_n_epochs: Epochs between grids; the last epoch always has one.
        columns: Samples per class.
        max_classes: Largest number of classes; the first ones are shown.
        steps: DDIM steps.
        scale: Scale of classifier-free guidance.
    """

    def __init__(
        self,
        every_n_epochs: int,
        columns: int = 8,
        max_classes: int = 10,
        steps: int = 20,
        scale: float = 2.0,
    ) -> None:
        if min(every_n_epochs, columns, max_classes, steps) < 1:
            raise UserError(
                "the sample grid's every_n_epochs, columns, max_classes and steps must be at least "
                f"1, got {every_n_epochs}, {columns}, {max_classes} and {steps}"
            )
        self.every_n_epochs, self.columns, self.max_classes = every_n_epochs, columns, max_classes
        self.steps, self.scale = steps, scale

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw and log the grid, on the first process only."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if not (due and trainer.loggers and trainer.is_global_zero):
            return
        denoiser = pl_module.ema_denoiser()
        rows = min(denoiser.num_classes or 1, self.max_classes)
        labels = torch.arange(rows, device=pl_module.device).repeat_interleave(self.columns)
        images = draw_samples(denoiser, labels, steps=self.steps, scale=self.scale)
        grid = make_grid(images.cpu(), nrow=self.columns, padding=1)
        pixels = grid.mul(255).round().byte().permute(1, 2, 0).numpy()
        log_picture(trainer.loggers, "diffusion/samples", pixels, trainer.global_step)
