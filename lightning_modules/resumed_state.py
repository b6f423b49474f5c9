"""Checks the content of a stage's checkpoint before training resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

import lightning.pytorch as pl
import torch
from pydantic import Field, InstanceOf, StringConstraints
from torch import Tensor
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.schema import validated
from diffguard.training.state_check import (
    LARGEST,
    check_optimizer,
    check_progress,
    check_scheduler,
    damaged_state,
)

_Version = Annotated[
    str, StringConstraints(pattern=r"^[2-9](\.\d+)*((a|b|rc|\.dev|\.post)\d+)*(\+\w+)?$")
]
_Count = Annotated[int, Field(ge=0, le=LARGEST)]


class _Optimizer(TypedDict):
    state: dict[int, dict[str, InstanceOf[Tensor]]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)]


class _Loader(TypedDict):
    batches: _Count


class _Loops(TypedDict):
    fit_loop: dict[str, dict[str, Any]]


class _Content(TypedDict):
    epoch: _Count
    global_step: _Count
    state_dict: dict[str, InstanceOf[Tensor]]
    loops: _Loops
    optimizer_states: Annotated[list[_Optimizer], Field(min_length=1, max_length=1)]
    lr_schedulers: Annotated[list[dict[str, Any]], Field(max_length=1)]
    planned_steps: Annotated[int, Field(ge=1, le=LARGEST)] | None
    generators: Annotated[list[dict[str, InstanceOf[Tensor]]], Field(min_length=1)]
    loader: NotRequired[_Loader]


def check_version(version: object, source: str) -> None:
    """Check the version of Lightning that wrote a checkpoint; Lightning converts old versions.

    Args:
        version: The version in the file.
        source: The file; the error begins with it.

    Raises:
        UserError: For a version before 2, and for text that is not a version.
    """
    validated(_Version, version, f"{source}: pytorch-lightning_version")


def check_types(checkpoint: Mapping[str, Any]) -> None:
    """Check the fields that every stage's checkpoint has.

    Args:
        checkpoint: The content of the file.

    Raises:
        UserError: For the first field that is missing or of another type.
    """
    validated(_Content, dict(checkpoint), "the stage's checkpoint")
    for states in checkpoint["generators"]:
        _check_generators(states)


def _check_generators(states: Mapping[str, Tensor]) -> None:
    if "cpu" not in states:
        raise damaged_state("generators", "the state of the CPU's generator is missing")
    for state in states.values():
        if state.dtype != torch.uint8 or state.ndim != 1:
            raise damaged_state("generators", "expected (n,) uint8")
    try:
        torch.Generator().set_state(states["cpu"])
    except RuntimeError:
        raise damaged_state("generators", "expected a state of torch's generator") from None


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


def check_loop(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check the progress of Lightning's loop.

    Args:
        given: The loop's state in the checkpoint.
        expected: The state of the loop that resumes.

    Raises:
        UserError: For the first part with another structure.
    """
    # The other entries depend on how far the loop came.
    notes = {key for key in expected if key.endswith("state_dict")}
    for key in notes & set(given):
        validated(
            dict[str, _Count | Annotated[list[_Loader], Field(max_length=1)]],
            given[key],
            f"the checkpoint's loops.{key}",
        )
    check_progress(
        {key: value for key, value in given.items() if key not in notes},
        {key: value for key, value in expected.items() if key not in notes},
        "loops",
    )
