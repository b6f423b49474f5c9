"""YAML from untrusted sources: checked for size and depth, then loaded as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffguard.errors import UserError
from diffguard.storage.paths import kind_of
from diffguard.storage.reading import read_text

_MAX_CHARACTERS = 2**21
_MAX_DEPTH = 50
_MAX_VALUES = 500_000
_MAX_KEYS = 5_000
_LARGEST_NUMBER = 2**64
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """Refuse YAML that is too long, too deep or recursive, or has too many values with its aliases.

    Raises:
        UserError: If it is refused.
        yaml.YAMLError: If it is not YAML.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"it has {len(text):,} characters, expected at most {_MAX_CHARACTERS:,}")
    # Anchor and number of values of each collection around the event, with aliases expanded.
    stack: list[tuple[str | None, int]] = [(None, 0)]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = stack.pop()
            sizes |= {} if anchor is None else {anchor: size}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes |= {} if event.anchor is None else {event.anchor: 1}
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in stack):
                raise UserError(f"its anchor &{event.anchor} contains itself: write out the values")
            size = sizes.get(event.anchor or "", 0)
        anchor, count = stack[-1]
        stack[-1] = anchor, count + size
        if len(stack) > _MAX_DEPTH or count + size > _MAX_VALUES:
            raise UserError(
                f"it is nested deeper than {_MAX_DEPTH} levels, or has more than {_MAX_VALUES:,} "
                "values with its aliases"
            )


def check_loaded(values: Any) -> None:
    """Refuse loaded YAML that the parser cannot handle.

    Args:
        values: What was loaded.

    Raises:
        UserError: For a named pipe or a device, which the parser would open as a config; for a
            whole number of absurd size; and for more keys than any config has.
    """
    waiting, keys = [values], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
            keys += len(value)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise UserError(f"it has a whole number of more than {_LARGEST_NUMBER:,}")
        elif isinstance(value, str) and "/" in value:
            _refuse_special(value)
        if keys > _MAX_KEYS:
            raise UserError(f"it has more than {_MAX_KEYS:,} keys")


def _refuse_special(path: str) -> None:
    try:
        kind = kind_of(path)
    except UserError:
        return  # no path, or one that may not be entered
    if kind not in ("nothing", "a file", "a folder"):
        raise UserError(f"{path} cannot be read: it is {kind}, expected a file")


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain data.

    Raises:
        UserError: If the file cannot be read or is refused; names the file.
    """
    try:
        text = read_text(path)
        check_yaml(text)
        return yaml.load(text, Loader=_LOADER)  # a safe loader
    except (OSError, yaml.YAMLError, UserError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
