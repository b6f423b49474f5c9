"""Checks the states of optimizers and schedules before they are restored from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffguard.errors import UserError
from diffguard.storage.schema import validated

# The largest integer that a float holds exactly; no count is larger.
LARGEST = 2**53
# A scheduler adds these to the options of an optimizer, and changes `lr` with every step.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
# These entries of a scheduler change with every step; the others follow from the config.
_MOVING = ("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial")


def check_progress(state: object, expected: object, where: str) -> None:
    """Check that a state has the keys and types of a state of the same object.

    Args:
        state: The state in the checkpoint.
        expected: A state of the object that will take it.
        where: Name of the state; the error begins with it.

    Raises:
        UserError: For the first difference, and for numbers that are negative or not finite.
    """
    if isinstance(expected, Mapping):
        keys = set(state) if isinstance(state, Mapping) else set()
        if keys != set(expected):
            raise damaged_state(where, f"expected the entries {', '.join(map(str, expected))}")
        for key, value in expected.items():
            check_progress(state[key], value, f"{where}.{key}")  # type: ignore[index]
    elif type(state) is not type(expected):
        raise damaged_state(where, f"expected {type(expected).__name__}")
    elif isinstance(state, int | float) and not 0 <= state <= LARGEST:
        raise damaged_state(where, f"expected a number of at least 0, got {state}")


def check_optimizer(state: Mapping[str, Any], fresh: Optimizer) -> None:
    """Check the state of an optimizer.

    Args:
        state: Its state in the checkpoint.
        fresh: The same optimizer before its first step.

    Raises:
        UserError: If its options differ from the config's, or its tensors from the parameters.
    """
    groups, expected = state["param_groups"], fresh.state_dict()["param_groups"]
    if len(groups) != len(expected):
        raise damaged_state("optimizer_states.param_groups", f"expected {len(expected)} of them")
    for options, expected_options in zip(groups, expected, strict=True):
        _check_options(options, expected_options)
    parameters = [parameter for group in fresh.param_groups for parameter in group["params"]]
    momentum = "momentum" in expected[0]
    names = {"momentum_buffer"} if momentum else {"step", "exp_avg", "exp_avg_sq"}
    for index, values in state["state"].items():
        if not 0 <= index < len(parameters) or set(values) != names:
            raise damaged_state(
                f"optimizer_states.state.{index}", f"expected {', '.join(sorted(names))}"
            )
        for name, value in values.items():
            shape = () if name == "step" else parameters[index].shape
            if value.shape != shape or not value.is_floating_point():
                raise damaged_state(
                    f"optimizer_states.state.{index}.{name}", f"expected shape {tuple(shape)}"
                )


def _check_options(options: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check the options of one group of parameters; the schedule changes their learning rates."""
    for key in {*options, *expected}:
        if key in _RATES:
            rate = options.get(key, expected.get(key))
            if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                raise damaged_state(f"optimizer_states.{key}", "expected a learning rate")
        elif key not in options or key not in expected or not _same(options[key], expected[key]):
            raise damaged_state(
                f"optimizer_states.{ascii(key)[1:-1][:60]}", "it differs from the config's"
            )


def check_scheduler(state: Mapping[str, Any], fresh: LRScheduler, steps: int) -> None:
    """Check the state of a learning rate schedule.

    Args:
        state: Its state in the checkpoint.
        fresh: The same schedule before its first step.
        steps: Number of steps that it is built for.

    Raises:
        UserError: If it is not the config's schedule, or is beyond its end.
    """
    expected = fresh.state_dict()
    if set(state) != set(expected):
        raise damaged_state("lr_schedulers", f"expected the entries {', '.join(expected)}")
    for key, value in expected.items():
        if key not in _MOVING:
            if not _same(state[key], value):
                raise damaged_state(f"lr_schedulers.{key}", "it differs from the config's")
        elif key == "_last_lr":
            validated(
                Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
                          Field(min_length=len(value), max_length=len(value))],
                state[key],
                "the checkpoint's lr_schedulers._last_lr",
            )  # fmt: skip
        else:
            check_progress(state[key], value, f"lr_schedulers.{key}")
    if state["last_epoch"] > max(steps, fresh.state_dict().get("total_steps", 0)):
        raise damaged_state("lr_schedulers.last_epoch", f"the schedule has {steps} steps")


def _same(state: object, expected: object) -> bool:
    """Whether plain values are equal; values of any other type never are."""
    if isinstance(expected, Mapping):
        return (
            isinstance(state, Mapping)
            and set(state) == set(expected)
            and all(_same(state[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(state, list | tuple)
            and len(state) == len(expected)
            and all(map(_same, state, expected))
        )
    return isinstance(state, int | float | str | None) and state == expected


def damaged_state(where: str, expected: str) -> UserError:
    """The error for a state that does not fit."""
    return UserError(
        f"the checkpoint's {where} is damaged or of another run: {expected}; delete the file and "
        "train that stage again"
    )
