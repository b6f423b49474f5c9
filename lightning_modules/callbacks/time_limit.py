"""Training in legs: a time limit, and how fast a leg was against what the device can do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from diffguard.errors import UserError
from diffguard_cli.config import TrainerConfig
from lightning_modules.base import TrainingModule

# The first steps of a process compile kernels and fill caches.
_WARM_UP_STEPS = 10


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
