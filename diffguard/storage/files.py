"""Atomic writes: a file or folder exists completely or not at all."""

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

_LARGEST_FILE = 2**37


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Provide a temporary path to write to, then move it to `path` in one step.

    A reader always sees either the old or the new content, also after a crash, and also if
    several processes write at once.

    Args:
        path: The file to create or replace; its folder is created if it is missing.

    Yields:
        The path to write to, in the same folder.

    Raises:
        UserError: If the system refuses to write, as on a full disk; `path` is then unchanged.
    """
    with _written(path) as temporary:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)


@contextmanager
def create_folder(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder to fill, then move it to `folder` in one step.

    Args:
        folder: The folder to create; it may exist if it is empty.

    Yields:
        The folder to fill, next to the final one.

    Raises:
        UserError: For a folder that is not empty, and if the system refuses to write, as on a full
            disk; no files are left then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists: name a new folder or empty it")
    # `.` has no name; a full path has one.
    place = folder.resolve()
    temporary = place.with_name(f".{place.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(place)
    except OSError as error:
        raise write_error(folder, error) from error
    except Exception as error:
        # Libraries that are not written in Python raise their own exceptions.
        full = os.strerror(errno.ENOSPC)
        if full not in str(error):
            raise
        raise write_error(folder, OSError(errno.ENOSPC, full)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def create_file(path: Path) -> Iterator[Path]:
    """Like `replace_file`, but keep an existing file: the first of several processes wins."""
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
    # Host names and process ids may repeat, so names are random.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # without locks, abandoned files stay
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
    """Remove unlocked temporary files, which processes left when they were killed."""
    name = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{32}\.tmp")
    for leftover in path.parent.glob(f"{glob.escape(f'.{path.name}.')}*.tmp"):
        if not name.fullmatch(leftover.name):
            continue
        try:
            file = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # gone, a link, or another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)
        except OSError:  # another process is writing it
            continue
        finally:
            os.close(file)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file in one write, so that lines of several processes do not mix.

    Args:
        path: The file; created if it is missing. A link is not followed.
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
    """Refuse output folders and files that are links to somewhere else.

    Raises:
        UserError: For the first link.
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
    """The error for a file that the system refused to write."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; make room or allow writing there, "
        "then start again with the same command"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: If it is not a regular file, cannot be read, or is larger than any model.
    """
    try:
        with open_regular(path) as file:
            # A sparse file takes no room on the disk, whatever its size.
            if (size := os.fstat(file.fileno()).st_size) > _LARGEST_FILE:
                raise UserError(f"{path} has {size:,} bytes, expected at most {_LARGEST_FILE:,}")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
