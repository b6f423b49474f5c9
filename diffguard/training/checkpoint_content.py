"""The fields of a stage's checkpoint, checked before training resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field, InstanceOf, StringConstraints
from torch import Tensor
from typing_extensions import TypedDict

from diffguard.storage.schema import validated
from diffguard.training.generators import check_generators
from diffguard.training.state_check import LARGEST, check_progress

_Version = Annotated[
    str, StringConstraints(pattern=r"^[2-9](\.\d+)*((a|b|rc|\.dev|\.post)\d+)*(\+\w+)?$")
]
_Count = Annotated[int, Field(ge=0, le=LARGEST)]


class _Optimizer(TypedDict):
    state: dict[int, dict[str, InstanceOf[Tensor]]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1)]


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
        check_generators(states)


def check_loop(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check the progress of Lightning's loop.

    Args:
        state: The loop's state in the checkpoint.
        expected: The state of the loop that resumes.

    Raises:
        UserError: For the first part with another structure.
    """
    # The other entries depend on how far the loop got.
    notes = {key for key in expected if key.endswith("state_dict")}
    for key in notes & set(state):
        validated(
            dict[str, _Count | Annotated[list[_Loader], Field(max_length=1)]],
            state[key],
            f"the checkpoint's loops.{key}",
        )
    check_progress(
        {key: value for key, value in state.items() if key not in notes},
        {key: value for key, value in expected.items() if key not in notes},
        "loops",
    )
