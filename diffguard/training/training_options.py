"""Options of Lightning's Trainer that the stages of training pass on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from diffguard.errors import UserError


@dataclass(frozen=True)
class TrainingOptions:
    """Arguments of Lightning's Trainer in training, with the names and meanings that it gives them.

    Some are not passed on. `<stage>.max_epochs` and `<stage>.val_every` set the epochs of a stage
    and of its validations. An evaluation has `data.limit`. The loaders, checkpoints, logs and the
    progress bar belong to the commands. `overfit_batches` would replace the sampler, whose picks
    carry the epoch.

    Attributes:
        gradient_clip_val: Largest norm of the gradient; None and 0 do not clip.
        gradient_clip_algorithm: What `gradient_clip_val` limits: the `norm` of the gradient (the
            default), or each `value`.
        accumulate_grad_batches: Training batches whose gradients are accumulated for one step.
        log_every_n_steps: Steps between logged values.
        min_epochs: A stage trains at least this many epochs, even if a callback stops it earlier.
        min_steps: A stage trains at least this many steps.
        max_steps: A stage ends after this many steps; -1 sets no limit besides its `max_epochs`.
        max_time: A stage ends after this time, `days:hours:minutes:seconds`, and counts as trained.
            See `max_minutes` for a training that is continued later.
        limit_train_batches: Batches of an epoch: a number, or a share such as 0.1.
        limit_val_batches: Batches of a validation: a number, or a share; 0 skips it.
        fast_dev_run: Run one batch (true) or this many of each stage, without logs and
            checkpoints: a test of the command.
        num_sanity_val_steps: Batches of a validation before training; -1 takes all.
        val_check_interval: Validate after this number of batches, or share of an epoch.
        reload_dataloaders_every_n_epochs: Build the data loaders again after this many epochs.
        deterministic: Use deterministic operations; `warn` permits those without such a version.
        benchmark: Let cuDNN measure which of its algorithms is fastest.
        detect_anomaly: Stop at the operation that gives the first NaN in a backward pass.
        enable_model_summary: Print the layers and their numbers of weights when a stage starts.
        inference_mode: Validate in inference mode, otherwise without gradients.
        sync_batchnorm: Compute the statistics of BatchNorm over all processes.
    """

    gradient_clip_val: float | None = 1.0
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    accumulate_grad_batches: int = 1
    log_every_n_steps: int = 20
    min_epochs: int | None = None
    min_steps: int | None = None
    max_steps: int = -1
    max_time: str | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    fast_dev_run: int | bool = False
    num_sanity_val_steps: int = 0
    val_check_interval: int | float | None = None
    reload_dataloaders_every_n_epochs: int = 0
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    enable_model_summary: bool = False
    inference_mode: bool = True
    sync_batchnorm: bool = False

    def check_training(self) -> None:
        """Check what Lightning does not check, or would accept in order to train nothing.

        Raises:
            UserError: For a value out of range.
        """
        for name in ("accumulate_grad_batches", "log_every_n_steps"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"trainer.{name} must be at least 1, got {value:,}")
        for name in ("limit_train_batches", "max_steps"):
            if getattr(self, name) == 0:
                raise UserError(f"trainer.{name} is 0, so nothing would be trained: leave it out")
        clip = self.gradient_clip_val
        if clip is not None and not 0 <= clip < math.inf:
            raise UserError(
                "trainer.gradient_clip_val must be at least 0 (0 or null does not clip), got "
                f"{clip:g}"
            )

    def training_arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        return {option.name: getattr(self, option.name) for option in fields(TrainingOptions)}
