"""Samples of the diffusion model in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from diffguard.denoisers.sampling import draw_samples
from diffguard.errors import UserError
from diffguard.report.sample_figure import sample_figure
from diffguard.report.training_figures import pixels_of
from lightning_modules.results_log import log_picture


class SampleGrid(Callback):
    """Logs samples of the averaged weights as `diffusion/samples`, a row per class.

    TensorBoard and W&B show them. The noise is the same every time, so that the pictures can be
    compared over time.

    Args:
        every_n_epochs: Epochs between grids; the last epoch always has one.
        columns: Samples per class.
        max_classes: Largest number of classes; of more classes, evenly spaced ones are shown.
        steps: DDIM steps.
        scale: Scale of classifier-free guidance.
        class_names: Names of the model's classes; by default their numbers.
    """

    def __init__(
        self,
        every_n_epochs: int,
        columns: int = 8,
        max_classes: int = 10,
        steps: int = 20,
        scale: float = 2.0,
        class_names: Sequence[str] = (),
    ) -> None:
        if min(every_n_epochs, columns, max_classes, steps) < 1:
            raise UserError(
                "the sample grid's every_n_epochs, columns, max_classes and steps must be at least "
                f"1, got {every_n_epochs}, {columns}, {max_classes} and {steps}"
            )
        self.every_n_epochs, self.columns, self.max_classes = every_n_epochs, columns, max_classes
        self.steps, self.scale, self.class_names = steps, scale, class_names

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw and log the grid, on the first process only."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if not (due and trainer.loggers and trainer.is_global_zero):
            return
        denoiser = pl_module.ema_denoiser()
        count = denoiser.num_classes or 1
        classes = np.linspace(0, count - 1, min(count, self.max_classes)).round().astype(int)
        rows = torch.from_numpy(classes).to(pl_module.device)
        labels = rows.repeat_interleave(self.columns)
        images = draw_samples(denoiser, labels, steps=self.steps, scale=self.scale)
        figure = sample_figure(images, self.columns, self._names(denoiser.num_classes, classes))
        log_picture(trainer.loggers, "diffusion/samples", pixels_of(figure), trainer.global_step)

    def _names(self, num_classes: int | None, classes: NDArray[np.intp]) -> list[str]:
        if num_classes is None:
            return [""]
        names = self.class_names
        # A model may have learned other classes than those of the data.
        has_names = len(names) == num_classes
        return [names[label] if has_names else f"class {label}" for label in classes.tolist()]
