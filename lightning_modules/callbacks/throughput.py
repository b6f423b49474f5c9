"""Images per second of training, and the share of the device's arithmetic that it uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.time_limit import TimeIsUpError

# The first steps of a process compile kernels and fill caches.
_WARM_UP_STEPS = 10


class TrainingRate(Callback):
    """Tells how many images a second were trained on, and what share of the device that is.

    The share is that of the rate at which the device multiplies large matrices of the training's
    precision. A step is counted as three forward passes (the backward pass is two).

    Args:
        say: Takes the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.images, self.seconds = 0, 0.0
        self._steps = 0
        self._began: float | None = None
        self._sample: dict[str, Any] | None = None

    def on_train_batch_start(
        self, _trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        """Start the clock where it stands still."""
        self._steps += 1
        if self._sample is None:
            self._sample = {name: batch[name][:1] for name in ("image", "label")}
        if self._began is None and self._steps > _WARM_UP_STEPS:
            _wait_for(pl_module.device)
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
            self.images += len(batch["label"]) * trainer.world_size

    def on_validation_start(self, _trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module)

    def on_train_epoch_end(self, _trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:
        """Tell the rate."""
        self._tell(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: TrainingModule, exception: BaseException
    ) -> None:
        """Tell the rate of a leg that was stopped by its time limit."""
        if isinstance(exception, TimeIsUpError):
            self._tell(trainer, pl_module)

    def _stop(self, module: pl.LightningModule) -> None:
        if self._began is not None:
            _wait_for(module.device)
            self.seconds += time.perf_counter() - self._began
            self._began = None

    def _tell(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._stop(module)
        if not self.seconds or self._sample is None or not trainer.is_global_zero:
            return
        rate = self.images / self.seconds
        half = "bf16" in str(trainer.precision)
        possible = matrix_product_rate(module.device, torch.bfloat16 if half else torch.float32)
        used = 3 * forward_flops(module, self._sample) * rate / trainer.world_size
        self.say(
            f"{module.stage}: {rate:,.0f} images per second; {used / 1e12:.4g} TFLOP/s of the "
            f"{possible / 1e12:.4g} TFLOP/s of the device's {'bf16' if half else 'float32'} matrix "
            f"products ({used / possible:.0%})"
        )


def forward_flops(module: TrainingModule, batch: dict[str, Any]) -> float:
    """Floating point operations of one forward pass of an image (a product and a sum are two).

    Args:
        module: A training module.
        batch: `image` and `label` of some images, on its device.
    """
    training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.run_network(batch)
    module.train(training)
    return counter.get_total_flops() / len(batch["label"])


def matrix_product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating point operations a second of large square matrix products on a device, at best.

    Args:
        device: The device.
        dtype: Type of the factors.
        seconds: How long to measure.
    """
    size = 1024 if device.type == "cpu" else 8192
    factor = torch.randn(size, size, device=device).to(dtype)
    for _ in range(3):
        factor @ factor
    _wait_for(device)
    end, best = time.perf_counter() + seconds, float("inf")
    # The best of several: others may use the device now and then.
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(4):
            factor @ factor
        _wait_for(device)
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
