"""Reads untrusted files: only regular files, and only up to a maximum size.

Reading never blocks on a named pipe, and uses no more memory than the size of the file.
"""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from diffguard.errors import UserError, reason_of
from diffguard.storage.schema import validated

# Far above the size of a file of settings or times.
LARGEST_TEXT = 64 << 20
_DEEPEST = 100  # nesting of JSON


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        UserError: If it is not a file, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe blocks until another process writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path} is a link that leads nowhere: delete or restore it") from None
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or (not status.st_size and _has_content(descriptor)):
        os.close(descriptor)
        raise UserError(f"{path} is not a regular file: delete it or restore the file")
    return os.fdopen(descriptor, "rb")


def _has_content(descriptor: int) -> bool:
    """Whether a file of size 0 has content, as files in /proc do; some of them never end."""
    try:
        return bool(os.pread(descriptor, 1, 0))
    except OSError:
        return True


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        UserError: If it is not such a file, or larger than any file that this project writes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_TEXT:
            raise UserError(f"{path} is damaged: it has {size:,} bytes, at most {LARGEST_TEXT:,}")
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is damaged: it is not text in UTF-8 ({error})") from error


def read_json(path: Path, kind: Any) -> Any:
    """Read a JSON file and check it against a type; see `schema.validated`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        UserError: If the file is damaged.
    """
    return parse_json(read_text(path), kind, str(path))


def parse_json(text: str, kind: Any, source: str) -> Any:
    """Parse JSON text, without NaN and infinities, and check it against a type.

    Args:
        text: The text.
        kind: See `schema.validated`.
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
