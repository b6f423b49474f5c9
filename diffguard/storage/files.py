"""Files that are there in whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from diffguard.errors import UserError
from diffguard.storage.reading import open_regular


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
def create_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, then put it in the place of `folder` in one step.

    Args:
        folder: The folder to make; it may be there if it is empty.

    Yields:
        The folder to fill, beside the other.

    Raises:
        UserError: For a folder with something in it, and if the system refuses to write, as on a
            full disk; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name a new folder or empty it")
    # Only a full path has a name to go beside: `.` has none.
    place = folder.resolve()
    temporary = place.with_name(f".{place.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(place)
    except OSError as error:
        raise write_error(folder, error) from error
    except Exception as error:
        # Libraries that are not written in Python have exceptions of their own.
        full = os.strerror(errno.ENOSPC)
        if full not in str(error):
            raise
        raise write_error(folder, OSError(errno.ENOSPC, full)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    # No two processes share a name, whatever host name and process number they have.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: what is abandoned stays there
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if lock >= 0:
            os.close(lock)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes have left that were killed while they wrote: nobody locks it."""
    name = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{32}\.tmp")
    for left in path.parent.glob(f"{glob.escape(f'.{path.name}.')}*.tmp"):
        if not name.fullmatch(left.name):
            continue
        try:
            file = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # gone, a link, or another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)
        except OSError:  # being written
            continue
        finally:
            os.close(file)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file in one write, so that lines of several processes stay whole.

    Args:
        path: The file; made where it is missing. A link is not followed.
        line: Without its line break.

    Raises:
        UserError: If the system refuses to write, or the file is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o666)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        raise write_error(path, error) from error


def refuse_links(*paths: Path) -> None:
    """Refuse folders and files to be written to that lead out of the folder they lie in.

    Raises:
        UserError: For the first that is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and what is written there would land elsewhere: delete the "
                "link, or name another output folder"
            )


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_error(path: Path, error: OSError) -> UserError:
    """The line for a file that the system refused to write."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; make room or allow writing there, "
        "then start again with the same command"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
