"""Reproducible training that resumes as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from diffguard.errors import UserError
from diffguard.training.checkpoint_content import check_loop
from diffguard.training.generators import generator_states, restore_generators
from diffguard.training.state_check import check_optimizer, check_progress, check_scheduler


class ResumableTraining(pl.Callback):
    """Seeds torch's generators, and keeps in checkpoints what Lightning leaves out.

    The generators are seeded from (seed, epoch, rank) at the first batch of each epoch. Checkpoints
    hold the generators of all processes, the state of the data loader and the length of the
    schedule. Training that resumes then draws the same noise as training that never stopped.

    Args:
        stage: The stage, for error lines.
        seed: Seed of the run.
    """

    def __init__(self, stage: str, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self._checkpoint: Mapping[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states; every process calls this."""
        checkpoint["planned_steps"] = planned_steps(trainer)
        checkpoint["generators"] = generator_states(pl_module.device, trainer.world_size)
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "load_state_dict"):
            checkpoint["loader"] = loader.state_dict()

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep the states until training starts."""
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Check the states of loop, optimizer and schedule; Lightning restores them after this.

        Raises:
            UserError: If one of them does not fit, or the schedule has another length.
        """
        if self._checkpoint:
            check_state(self._checkpoint, trainer, self.stage, planned_steps(trainer))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Restore the data loader.

        A schedule that needs the number of steps has made the loader before Lightning reads the
        loader's state, so Lightning does not restore it.
        """
        loader: Any = trainer.train_dataloader
        if "loader" in self._checkpoint and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._checkpoint["loader"])

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Seed the generators at the first batch of an epoch; restore them in the middle of one.

        The start of the epoch would be the wrong moment: whether the loader's iterator is made, and
        draws a number, before or after it differs between an epoch that resumes and any other.

        Raises:
            UserError: If an epoch resumes on another number of processes.
        """
        checkpoint, self._checkpoint = self._checkpoint, {}
        if batch_idx == 0:
            sequence = np.random.SeedSequence(
                [self.seed, trainer.current_epoch, trainer.global_rank]
            )
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        elif checkpoint:
            states = checkpoint["generators"]
            if len(states) != trainer.world_size:
                raise UserError(
                    f"the {self.stage} stopped in the middle of an epoch on {len(states)} "
                    f"processes: resume it on as many, not on {trainer.world_size}"
                )
            restore_generators(states[trainer.global_rank], pl_module.device)


def planned_steps(trainer: pl.Trainer) -> int | None:
    """Steps of the optimizer that the schedule is made for; None without a schedule."""
    if not trainer.lr_scheduler_configs:
        return None
    return int(trainer.estimated_stepping_batches)


def check_state(
    checkpoint: Mapping[str, Any], trainer: pl.Trainer, stage: str, steps: int | None
) -> None:
    """Check the states of loop, optimizer, schedule and gradient scaler before they are restored.

    Args:
        checkpoint: The content of the file; see `check_types`.
        trainer: The trainer that resumes, with its optimizer and schedule built.
        stage: The stage, for error lines.
        steps: Number of steps that the schedule is built for; None without a schedule.

    Raises:
        UserError: For the first state that does not fit.
    """
    planned, schedules = checkpoint["planned_steps"], checkpoint["lr_schedulers"]
    if bool(schedules) != (planned is not None):
        raise UserError("the checkpoint is damaged: its schedule and planned_steps disagree")
    if (planned is None) != (steps is None):
        raise UserError(
            f"the {stage} was trained with another {stage}.schedule: resume with the config of "
            "its run"
        )
    if planned != steps:
        raise UserError(
            f"the {stage} was planned for {planned} steps, and to resume with {steps} would break "
            f"its learning rate schedule: keep {stage}.max_epochs and the batch size, or start a "
            "new run"
        )
    check_loop(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict())
    if steps is not None:
        check_scheduler(schedules[0], trainer.lr_scheduler_configs[0].scheduler, steps)
    check_optimizer(checkpoint["optimizer_states"][0], trainer.optimizers[0])
    precision = trainer.precision_plugin
    name = type(precision).__qualname__
    if name in checkpoint:
        check_progress(checkpoint[name], precision.state_dict(), name)
