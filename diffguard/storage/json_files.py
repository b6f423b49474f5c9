"""Reads JSON files that others may have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffguard.storage.reading import read_text
from diffguard.storage.schema import parse_json


def read_json(path: Path, kind: Any) -> Any:
    """Read a JSON file and check it against a type; see `schema.parse_json`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        UserError: If the file is damaged.
    """
    return parse_json(read_text(path), kind, str(path))
