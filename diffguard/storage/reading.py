"""Reads untrusted files: only regular files, and only up to a maximum size.

Reading never blocks on a named pipe, and uses no more memory than the size of the file.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from diffguard.errors import UserError

# Far above the size of a file of settings or times.
LARGEST_TEXT = 64 << 20


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
