"""Files that are there in whole or not at all."""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffguard.errors import UserError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, then put it in the place of `path` in one step.

    Whoever reads `path`, at any moment and after any crash, finds the old content or the new one,
    even where several processes write it at once.

    Args:
        path: The file to make or replace; its folder is made where it is missing.

    Yields:
        The path to write to, in the same folder.

    Raises:
        UserError: If the system refuses to write, as on a full disk; `path` is then as before.
    """
    with _written(path) as temporary:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)


@contextmanager
def create_file(path: Path) -> Iterator[Path]:
    """As `replace_file`, but a file that is there stays: of several processes one is the first."""
    with _written(path) as temporary:
        yield temporary
        _to_disk(temporary)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                temporary.replace(path)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    start = f".{path.name}.{socket.gethostname()}-"
    temporary = path.with_name(f"{start}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent, start)
        yield temporary
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(folder: Path, start: str) -> None:
    """Remove what processes of this machine have left that were killed while they wrote."""
    for left in folder.glob(f"{glob.escape(start)}*.tmp"):
        pid = left.name.removeprefix(start).removesuffix(".tmp")
        try:
            os.kill(int(pid), 0)  # sends nothing, but finds out whether there is such a process
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except PermissionError:  # another user's
            continue


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_error(path: Path, error: OSError) -> UserError:
    """The line for a file that the system refused to write."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; make room or allow writing there, "
        "then start again with the same command"
    )
