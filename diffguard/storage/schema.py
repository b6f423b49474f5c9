"""Checks data from a file: JSON, types, ranges and sizes."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from diffguard.errors import UserError, reason_of

_DEEPEST = 100  # nesting of JSON


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


def parse_json(text: str, kind: Any, source: str) -> Any:
    """Parse JSON text, without NaN and infinities, and check it against a type.

    Args:
        text: The text.
        kind: See `validated`.
        source: Its origin; the error begins with it.

    Returns:
        The data, with keys in the order of the text.

    Raises:
        UserError: If it is not JSON, nested too deeply, or does not fit.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is damaged: it is not JSON ({reason_of(error)})") from error
    _check_depth(value, source)
    validated(kind, value, source)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _check_depth(value: object, source: str) -> None:
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise UserError(f"{source} is damaged: it is nested deeper than {_DEEPEST} levels")
        parts = [
            x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)
        ]
        level = [x for part in parts for x in part]
        depth += 1


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
