"""Checks that the sections of a detector's settings share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from diffguard.errors import UserError

# Published scales are at most some thousand; far larger ones end in numbers that are not finite.
_LARGEST_SCALE = 1_000_000


def check_values(settings: Any, name: str) -> None:
    """Check the choices and numbers of a data class of settings, by the types of its fields.

    Args:
        settings: The data class.
        name: Its dotted name, such as `detector.sampler`.

    Raises:
        UserError: For a value that is not one of a field's choices, and for a number that is not
            finite.
    """
    types = get_type_hints(type(settings))
    for field in fields(settings):
        value, choices = getattr(settings, field.name), get_args(types[field.name])
        texts = get_origin(types[field.name]) is Literal and all(
            isinstance(c, str) for c in choices
        )
        if texts and value not in choices:
            raise UserError(f"{name}.{field.name} must be {' or '.join(choices)}, got {value!r}")
        _check_finite(value, f"{name}.{field.name}")


def check_scale(scale: float, name: str) -> None:
    """Raise `UserError` for a guidance scale out of range."""
    if scale < 0:
        raise UserError(f"{name} must be at least 0, which is no guidance, got {scale:g}")
    if scale > _LARGEST_SCALE:
        raise UserError(f"{name} must be at most {_LARGEST_SCALE:,}, got {scale:g}")


def check_least(name: str, value: int, least: int) -> None:
    """Raise `UserError` for a number below the least."""
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value:,}")


def check_distinct(names: Sequence[str], key: str) -> None:
    """Refuse names that are given twice, which would have twice the weight.

    Args:
        names: The names.
        key: The setting that holds them, such as `detector.fused`.

    Raises:
        UserError: Naming the first such name.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{key} names {name} more than once: name it once")


def steps_at(depth: float, steps: int) -> int:
    """The number of steps, at least 1, up to a depth in (0, 1] of a schedule of `steps` steps."""
    return max(1, round(depth * steps))


def _check_finite(value: Any, name: str) -> None:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{name}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}")


def refuse_unused(settings: Any, name: str, unused: Mapping[str, str]) -> None:
    """Refuse settings that were changed although other settings leave them without effect.

    Args:
        settings: A data class of settings.
        name: Its dotted name.
        unused: Field without effect -> the setting that it needs.

    Raises:
        UserError: For the first such field whose value is not the default.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in unused and value != _default(field):
            raise UserError(
                f"{name}.{field.name} {value} has no effect here: it belongs to "
                f"{unused[field.name]}; leave it out, or change that"
            )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
