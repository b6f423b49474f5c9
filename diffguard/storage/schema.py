"""Checks data from a file: types, ranges and sizes."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diffguard.errors import UserError, reason_of


def validated(kind: Any, value: object, source: str) -> Any:
    """Check plain data against a type and return it as that type.

    Args:
        kind: A type that pydantic understands: a dataclass, a `TypedDict`, an `Annotated`, …
        value: The data. Nothing is converted: the text "1" is not a number.
        source: Its origin, such as `runs/a/manifest.json`; the error begins with it.

    Raises:
        UserError: For the first value that does not fit; one line that names its key.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise _damaged(error, source) from None


def validated_plain(kind: Any, value: object, source: str) -> Any:
    """Check data that JSON can hold, as `validated` does; dictionaries become data classes.

    Args:
        kind: A type that pydantic understands; a data class may hold others.
        value: The data.
        source: Its origin; the error begins with it.

    Raises:
        UserError: For the first value that does not fit, or is not plain.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else reason_of(error)
        raise UserError(f"{source} is damaged: expected plain values ({what})") from None
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise _damaged(error, source) from None


def _damaged(error: ValidationError, source: str) -> UserError:
    """The error for the first value that does not fit."""
    first = error.errors(include_url=False)[0]
    mistake = first.get("ctx", {}).get("error")
    if isinstance(mistake, UserError):
        return UserError(f"{source} is damaged: {mistake}")
    key = ".".join(ascii(str(part))[1:-1][:60] for part in first["loc"]) or "its content"
    reason = first["msg"][:1].lower() + first["msg"][1:]
    return UserError(f"{source} is damaged: {key}: {reason}, got {_shorten(first['input'])}")


def _shorten(value: object) -> str:
    if isinstance(value, int | float | bool | str | bytes | None):
        text = ascii(value if not isinstance(value, str | bytes) else value[:60])
        return text if len(text) <= 60 else f"{text[:57]}…"
    return type(value).__name__
