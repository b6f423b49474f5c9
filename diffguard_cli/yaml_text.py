"""YAML from anyone: bounded in size and depth before it is loaded, and loaded as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffguard.errors import UserError

_LONGEST = 2**21
_DEEPEST = 50
_MOST_VALUES = 500_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """Refuse YAML that is too long, too deep or recursive, or that grows by its aliases.

    Raises:
        UserError: For such a text.
        yaml.YAMLError: For one that is not YAML.
    """
    if len(text) > _LONGEST:
        raise UserError(f"it has {len(text):,} characters, expected at most {_LONGEST:,}")
    # The anchor and the number of values of each collection that is open, aliases expanded.
    open_: list[tuple[str | None, int]] = [(None, 0)]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            sizes |= {} if anchor is None else {anchor: size}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes |= {} if event.anchor is None else {event.anchor: 1}
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_):
                raise UserError(f"its anchor &{event.anchor} holds itself: write the values out")
            size = sizes.get(event.anchor, 0)
        anchor, count = open_[-1]
        open_[-1] = anchor, count + size
        if len(open_) > _DEEPEST or count + size > _MOST_VALUES:
            raise UserError("it is nested too deeply, or its aliases stand for too many values")


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain data.

    Raises:
        UserError: For a file that cannot be read or is not such data; it is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        return yaml.load(text, Loader=_LOADER)  # a safe loader, as the name says
    except (OSError, UnicodeDecodeError, yaml.YAMLError, UserError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
