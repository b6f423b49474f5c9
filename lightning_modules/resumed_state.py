"""Checks the content of a stage's checkpoint before training resumes from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

import lightning.pytorch as pl
import torch
from pydantic import Field, InstanceOf, StringConstraints
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.schema import validated

_LARGEST = 2**53
_Version = Annotated[
    str, StringConstraints(pattern=r"^[2-9](\.\d+)*((a|b|rc|\.dev|\.post)\d+)*(\+\w+)?$")
]
_Count = Annotated[int, Field(ge=0, le=_LARGEST)]
# A scheduler adds these to the options of an optimizer, and changes `lr` with every step.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
# These entries of a scheduler change with every step; the others follow from the config.
_MOVING = ("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial")


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
    planned_steps: Annotated[int, Field(ge=1, le=_LARGEST)] | None
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
        raise _differs("generators", "the state of the CPU's generator is missing")
    for state in states.values():
        if state.dtype != torch.uint8 or state.ndim != 1:
            raise _differs("generators", "expected (n,) uint8")
    try:
        torch.Generator().set_state(states["cpu"])
    except RuntimeError:
        raise _differs("generators", "expected a state of torch's generator") from None


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


def check_progress(given: object, expected: object, where: str) -> None:
    """Check that a state has the keys and types of a state of the same object.

    Args:
        given: The state in the checkpoint.
        expected: A state of the object that will take it.
        where: Name of the state; the error begins with it.

    Raises:
        UserError: For the first difference, and for numbers that are negative or not finite.
    """
    if isinstance(expected, Mapping):
        keys = set(given) if isinstance(given, Mapping) else set()
        if keys != set(expected):
            raise _differs(where, f"expected the entries {', '.join(map(str, expected))}")
        for key, value in expected.items():
            check_progress(given[key], value, f"{where}.{key}")  # type: ignore[index]
    elif type(given) is not type(expected):
        raise _differs(where, f"expected {type(expected).__name__}")
    elif isinstance(given, int | float) and not 0 <= given <= _LARGEST:
        raise _differs(where, f"expected a number of at least 0, got {given}")


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


def check_optimizer(given: Mapping[str, Any], fresh: Optimizer) -> None:
    """Check the state of an optimizer.

    Args:
        given: Its state in the checkpoint.
        fresh: The same optimizer before its first step.

    Raises:
        UserError: If its options differ from the config's, or its tensors from the parameters.
    """
    options, expected = given["param_groups"][0], fresh.state_dict()["param_groups"][0]
    for key in {*options, *expected}:
        if key in _RATES:
            rate = options.get(key, expected.get(key))
            if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                raise _differs(f"optimizer_states.{key}", "expected a learning rate")
        elif key not in options or key not in expected or not _same(options[key], expected[key]):
            raise _differs(
                f"optimizer_states.{ascii(key)[1:-1][:60]}", "it differs from the config's"
            )
    parameters = fresh.param_groups[0]["params"]
    names = {"momentum_buffer"} if "momentum" in expected else {"step", "exp_avg", "exp_avg_sq"}
    for index, values in given["state"].items():
        if not 0 <= index < len(parameters) or set(values) != names:
            raise _differs(
                f"optimizer_states.state.{index}", f"expected {', '.join(sorted(names))}"
            )
        for name, value in values.items():
            shape = () if name == "step" else parameters[index].shape
            if value.shape != shape or not value.is_floating_point():
                raise _differs(
                    f"optimizer_states.state.{index}.{name}", f"expected shape {tuple(shape)}"
                )


def check_scheduler(given: Mapping[str, Any], fresh: LRScheduler, steps: int) -> None:
    """Check the state of a learning rate schedule.

    Args:
        given: Its state in the checkpoint.
        fresh: The same schedule before its first step.
        steps: Number of steps that it is built for.

    Raises:
        UserError: If it is not the config's schedule, or is beyond its end.
    """
    expected = fresh.state_dict()
    if set(given) != set(expected):
        raise _differs("lr_schedulers", f"expected the entries {', '.join(expected)}")
    for key, value in expected.items():
        if key not in _MOVING:
            if not _same(given[key], value):
                raise _differs(f"lr_schedulers.{key}", "it differs from the config's")
        elif key == "_last_lr":
            validated(
                Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
                          Field(min_length=1, max_length=1)],
                given[key],
                "the checkpoint's lr_schedulers._last_lr",
            )  # fmt: skip
        else:
            check_progress(given[key], value, f"lr_schedulers.{key}")
    if given["last_epoch"] > max(steps, fresh.state_dict().get("total_steps", 0)):
        raise _differs("lr_schedulers.last_epoch", f"the schedule has {steps} steps")


def _same(given: object, expected: object) -> bool:
    """Whether plain values are equal; values of any other type never are."""
    if isinstance(expected, Mapping):
        return (
            isinstance(given, Mapping)
            and set(given) == set(expected)
            and all(_same(given[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(expected)
            and all(map(_same, given, expected))
        )
    return isinstance(given, int | float | str | None) and given == expected


def _differs(where: str, expected: str) -> UserError:
    return UserError(
        f"the checkpoint's {where} is damaged or of another run: {expected}; delete the file and "
        "train that stage again"
    )
