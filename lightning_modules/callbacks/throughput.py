"""Images per second of training, and the share of the device's computing power it uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffguard.inputs.batch_parts import batch_images, images_and_labels
from diffguard.training.device_rate import matrix_product_rate, wait_for
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.time_limit import TimeIsUpError

# The first steps of a process compile kernels and fill caches.
_WARM_UP_STEPS = 10


class TrainingRate(Callback):
    """Logs how many images per second a stage trains on, and may report the share of the device.

    It logs `<stage>/images_per_second` after each epoch. The share is relative to the rate at which
    the device multiplies large matrices in the precision of training. A step counts as three
    forward passes: the backward pass is worth two.

    Args:
        say: Prints the report at the end; None measures and reports no share.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say
        self.images, self.seconds = 0, 0.0
        self._steps = 0
        self._began: float | None = None
        self._sample: tuple[Tensor, Tensor] | None = None

    def on_train_batch_start(
        self, _trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        """Start the clock unless it runs."""
        self._steps += 1
        if self.say is not None and self._sample is None:
            images, labels = images_and_labels(batch)
            self._sample = (images[:1], labels[:1])
        if self._began is None and self._steps > _WARM_UP_STEPS:
            wait_for(pl_module.device)
            self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        _module: pl.LightningModule,
        _outputs: Any,
        batch: Any,
        *_: Any,
    ) -> None:
        """Count the images."""
        if self._began is not None:
            self.images += len(batch_images(batch)) * trainer.world_size

    def on_validation_start(self, _trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module)

    def on_train_epoch_end(self, _trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop the clock and log the mean rate so far."""
        self._stop(pl_module)
        if self.seconds:
            pl_module.log_mean("images_per_second", torch.tensor(self.images / self.seconds), 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Report the rate."""
        self._report(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Report the rate of training that stopped at its time limit."""
        if isinstance(exception, TimeIsUpError):
            self._report(trainer, pl_module)

    def _stop(self, module: pl.LightningModule) -> None:
        if self._began is not None:
            wait_for(module.device)
            self.seconds += time.perf_counter() - self._began
            self._began = None

    def _report(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._stop(module)
        sample, say = self._sample, self.say
        if not self.seconds or sample is None or say is None or not trainer.is_global_zero:
            return
        rate = self.images / self.seconds
        half = "bf16" in str(trainer.precision)
        possible = matrix_product_rate(module.device, torch.bfloat16 if half else torch.float32)
        used = 3 * forward_flops(module, sample) * rate / trainer.world_size
        say(
            f"{module.stage}: {rate:,.0f} images per second; {used / 1e12:.4g} TFLOP/s of the "
            f"{possible / 1e12:.4g} TFLOP/s of the device's {'bf16' if half else 'float32'} matrix "
            f"products ({used / possible:.0%})"
        )


def forward_flops(module: TrainingModule, batch: Any) -> float:
    """Floating point operations of one forward pass of an image (a product and a sum are two).

    Args:
        module: A training module.
        batch: A training batch on its device.
    """
    training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.run_network(batch)
    module.train(training)
    return counter.get_total_flops() / len(batch_images(batch))
