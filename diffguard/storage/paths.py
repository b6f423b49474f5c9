"""Paths from the user: expansion, and checks before a file is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from diffguard.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Bytes of the name of a file or folder, on every system.
_LONGEST_NAME = 255
_LONGEST_PATH = 4095


def user_path(text: str | Path, name: str) -> Path:
    """A path that a user wrote, with `~` as the home folder.

    Every path from the command line, a config or Python passes through here.

    Args:
        text: The user's input.
        name: Its name in an error, such as `--images`.

    Raises:
        UserError: If it is empty or too long, holds a NUL character, or names an unknown home
            folder.
    """
    return Path(expand_home(str(text), name))


def expand_home(text: str, name: str) -> str:
    """Like `user_path`, for a text that may also be something else, such as a hub id."""
    if not text:
        raise UserError(f"{name} is empty: expected a path ('.' is the current folder)")
    long_name = any(len(os.fsencode(part)) > _LONGEST_NAME for part in text.split("/"))
    if long_name or len(os.fsencode(text)) > _LONGEST_PATH:
        raise UserError(f"{name} {text[:40]!r}… is too long for the path of a file")
    if "\0" in text:
        raise UserError(f"{name} {text!r} holds a NUL character, which no path may hold")
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise UserError(
            f"{name} {text!r}: the home folder is unknown, write the path without '~'"
        ) from None


def require_file(path: str | Path, name: str) -> Path:
    """Check that a path leads to an ordinary file, before it is opened.

    Opening a named pipe may block forever, and a device may supply endless data.

    Args:
        path: The path; links are followed.
        name: Kind of file, at the start of the error, such as `image`.

    Returns:
        The path.

    Raises:
        UserError: If the path does not exist, or is not a file.
    """
    kind = kind_of(path)
    if kind == "nothing":
        raise UserError(f"{name} {path} does not exist")
    if kind != "a file":
        raise UserError(f"{name} {path} cannot be read: it is {kind}, expected a file")
    return Path(path)


def kind_of(path: str | Path) -> str:
    """The kind of a path: `a file`, `a folder`, `a named pipe`, …, or `nothing`.

    Raises:
        UserError: If the system denies access, as in a folder that may not be entered.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error
    return "a file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")
