"""Callbacks of the training stages: progress, and a grid of samples."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor
from torchvision.utils import make_grid

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.diffusion.ddim import synthesize
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.schedule import SamplingPlan
from diffguard.errors import UserError
from lightning_modules.callbacks.progress import StageProgress

# The loss that is shown is a mean over about the last 20 steps.
_SMOOTHING = 0.05


class StageProgressBar(ProgressBar):
    """Which stage runs, how far it is over all its epochs, the loss and the newest figures.

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
        """Begin with the steps that were made before."""
        steps = trainer.estimated_stepping_batches
        total = None if steps == float("inf") else int(steps)
        self._loss, self._losses = None, 0
        self._begin(total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Follow the loss; read it only when it is shown, because that waits for the device."""
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
        self._finish(finished=False)

    def _begin(self, total: int | None, done: int) -> None:
        if self._enabled:
            self._progress = StageProgress(
                self.title, total, done=done, line_seconds=self.line_seconds, console=self.console
            )
            self._progress.__enter__()

    def _finish(self, *, finished: bool = True) -> None:
        if self._progress is not None:
            self._progress.close(finished=finished)
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


@torch.no_grad()
def draw_samples(
    denoiser: DiffusersDenoiser,
    labels: Tensor,
    *,
    steps: int = 20,
    scale: float = 2.0,
    seed: int = 0,
) -> Tensor:
    """Sample images by DDIM from noise that depends on the seed alone.

    Args:
        denoiser: The model, in evaluation mode.
        labels: `(N,)` int64 classes on the model's device; a model without classes reads only how
            many there are.
        steps: DDIM steps.
        scale: Scale of the classifier-free guidance, where the model has a null class.
        seed: Seed of the noise.

    Returns:
        `(N, C, H, W)` in [0, 1].
    """

    def predict_noise(x: Tensor, t: Tensor) -> Tensor:
        if denoiser.num_classes is None:
            return denoiser.predict_noise(x, t, None)
        if denoiser.null_class is None or scale == 1:
            return denoiser.predict_noise(x, t, labels)
        both = torch.cat([torch.full_like(labels, denoiser.null_class), labels])
        noise = denoiser.predict_noise(torch.cat([x, x]), torch.cat([t, t]), both)
        noise_null, noise_label = noise.chunk(2)
        return classifier_free(noise_null, noise_label, scale)

    plan = SamplingPlan.build(denoiser.schedule, steps)
    shape = (len(labels), denoiser.channels, denoiser.state_size, denoiser.state_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    for state in synthesize(predict_noise, x, plan, len(plan) - 1, clip=True):
        x = state
    return denoiser.decode(x)


class SampleGrid(Callback):
    """Show samples of the averaged weights in TensorBoard as `diffusion/samples`, a row a class.

    The noise is the same every time, so that one sees how the same picture gets better.

    Args:
        every_n_epochs: Epochs from one grid to the next; the last epoch always has one.
        columns: Samples per class.
        max_classes: At most so many classes are shown, the first.
        steps: See `draw_samples`.
        scale: See `draw_samples`.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log the grid, on the first process only."""
        epoch = trainer.current_epoch + 1
        loggers = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if not (due and loggers and trainer.is_global_zero):
            return
        denoiser = pl_module.ema_denoiser()
        rows = min(denoiser.num_classes or 1, self.max_classes)
        labels = torch.arange(rows, device=pl_module.device).repeat_interleave(self.columns)
        images = draw_samples(denoiser, labels, steps=self.steps, scale=self.scale)
        grid = make_grid(images.cpu(), nrow=self.columns, padding=1)
        for logger in loggers:
            logger.experiment.add_image("diffusion/samples", grid, trainer.global_step)
