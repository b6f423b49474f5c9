"""Files that are there in whole or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffguard.errors import UserError


@contextmanager
def replace_file(path: Path, *, contended: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, then put it in the place of `path` in one step.

    Whoever reads `path`, at any moment and after any crash, finds the old content or the new one.

    Args:
        path: The file to make or replace; its folder is made where it is missing.
        contended: Whether several processes may replace this file at once. Otherwise the temporary
            file has one name, so that a process that is killed leaves at most one behind.

    Yields:
        The path to write to, in the same folder.

    Raises:
        UserError: If the system refuses to write, as on a full disk; `path` is then as before.
    """
    own = f".{socket.gethostname()}-{os.getpid()}" if contended else ""
    temporary = path.with_name(f".{path.name}{own}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> UserError:
    """The line for a file that the system refused to write."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; make room or allow writing there, "
        "then start again with the same command"
    )
