"""What training the classifier and the diffusion model have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from diffguard.errors import UserError
from diffguard.images import check_range
from diffguard.inputs.batch_parts import batch_images
from diffguard.training.checkpoint_content import check_types
from diffguard.training.optimization import build_optimizer, build_schedule, clip_gradients
from diffguard.training.precision import check_trainable
from diffguard.training.settings import TrainingSettings
from lightning_modules.callbacks.acceleration import Acceleration
from lightning_modules.callbacks.divergence import DivergenceCheck
from lightning_modules.callbacks.resume import ResumableTraining


class TrainingModule(pl.LightningModule):
    """A training stage: its optimizer and learning rate schedule, and the callbacks it needs.

    Args:
        settings: The hyper-parameters.
        seed: Seed of the run, at least 0.

    Raises:
        UserError: For a negative seed.
    """

    def __init__(self, settings: TrainingSettings, seed: int) -> None:
        super().__init__()
        if seed < 0:
            raise UserError(f"{settings.stage}.seed must be at least 0, got {seed}")
        self.settings, self.seed = settings, seed

    @property
    def stage(self) -> str:
        """Name of the stage, with which its logged values begin."""
        return self.settings.stage

    def configure_callbacks(self) -> list[pl.Callback]:
        """Reproducible randomness and resuming, compiled networks, and a check for divergence."""
        return [
            ResumableTraining(self.stage, self.seed),
            Acceleration(self.settings),
            DivergenceCheck(self.settings),
        ]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer, and a schedule that is stepped with it.

        Raises:
            UserError: If the schedule needs the length of training, and it has no end.
        """
        optimizer = build_optimizer(self, self.settings)
        if self.settings.rate_is_constant:
            return {"optimizer": optimizer}
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(
                f"{self.stage}.schedule {self.settings.schedule} needs to know how long training "
                f"lasts: set {self.stage}.max_epochs, or use schedule constant with warmup 0"
            )
        schedule = build_schedule(optimizer, self.settings, int(steps))
        # `LearningRateMonitor` logs the learning rate by this name.
        name = f"{self.stage}/learning_rate"
        scheduler: LRSchedulerConfigType = {
            "scheduler": schedule,
            "interval": "step",
            "name": name,
        }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients; Lightning itself refuses to do so with a fused optimizer.

        Args:
            optimizer: The optimizer about to step.
            gradient_clip_val: The largest norm or value; None or 0 does not clip.
            gradient_clip_algorithm: See `clip_gradients`.
        """
        if not gradient_clip_val:
            return
        # Under 16-mixed, the gradient belongs to a scaled loss until the optimizer steps.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the content of a checkpoint before any of it is used.

        Raises:
            UserError: If a field is missing or has another type.
        """
        check_types(checkpoint)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights.

        Raises:
            UserError: If they belong to another network.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint of stage {self.stage} belongs to another network than the config "
                f"describes ({detail[:160]} …): resume with the config of its run"
            ) from error

    def setup(self, stage: str) -> None:
        """Check that there is something to train.

        Raises:
            UserError: If all weights are frozen, as those of a `Detector` are.
        """
        if stage == "fit" and not any(weight.requires_grad for weight in self.parameters()):
            raise UserError(
                f"the {self.stage} has no weights to train, because all are frozen: call "
                "requires_grad_(True) on its network, or on the layers to train"
            )

    def on_fit_start(self) -> None:
        """Check the precision.

        Raises:
            UserError: For a precision that holds the weights in half precision.
        """
        check_trainable(self.stage, str(self.trainer.precision))

    def on_train_start(self) -> None:
        """Check the length of an epoch.

        Raises:
            UserError: If an epoch is too short for one step.
        """
        trainer = self.trainer
        check_accumulation(
            self.stage, trainer.num_training_batches, trainer.accumulate_grad_batches
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the range of the first images.

        Raises:
            UserError: If they are not floating point in [0, 1].
        """
        if batch_idx == 0 and self.global_step == 0:
            check_range(batch_images(batch))

    def compile_networks(self) -> None:
        """Compile the networks that are trained, in place."""
        raise NotImplementedError

    def run_network(self, batch: Any) -> None:
        """Run the network that is trained once forward, to count its operations."""
        raise NotImplementedError

    def log_mean(self, name: str, value: Any, count: int) -> None:
        """Log the mean over an epoch as `<stage>/<name>`."""
        self.log(
            f"{self.stage}/{name}",
            value,
            on_step=False,
            on_epoch=True,
            batch_size=count,
            sync_dist=isinstance(value, Tensor),
            add_dataloader_idx=False,
        )


def check_accumulation(stage: str, batches: float, accumulated: int) -> None:
    """Raise `UserError` if an epoch is too short for one full step of the optimizer."""
    if accumulated > batches:
        raise UserError(
            f"trainer.accumulate_grad_batches is {accumulated}, but an epoch of the {stage} has "
            f"{batches:g} batches: accumulate fewer, or set a smaller batch size"
        )
