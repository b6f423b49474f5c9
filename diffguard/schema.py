"""One check for data that a file holds: types, ranges and sizes."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from diffguard.errors import UserError


def validated(kind: Any, value: object, source: str) -> Any:
    """Check plain data against a type and return it as that type.

    Args:
        kind: A type that pydantic understands: a dataclass, a `TypedDict`, an `Annotated`, …
        value: What was read. Nothing is converted: the text "1" is not a number.
        source: Where it was read, such as `runs/a/manifest.json`; the error begins with it.

    Raises:
        UserError: For the first value that does not fit; one line that names its key.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "its content"
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(
            f"{source} is damaged: {key}: {reason}, got {_shorten(first['input'])}"
        ) from None


def _shorten(value: object) -> str:
    if isinstance(value, int | float | bool | str | bytes | None):
        text = ascii(value if not isinstance(value, str | bytes) else value[:60])
        return text if len(text) <= 60 else f"{text[:57]}…"
    return type(value).__name__
