"""The files below a folder. Each folder is read once, and everything that is left out is listed.

A sub-folder that can be reached in several ways is read at its real place if that lies below the
folder, otherwise through the link whose name comes first. Links to an enclosing folder are not
followed.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from diffguard.errors import UserError

# Files that mark a folder of scores, and a folder of joined results.
_RESULTS = (
    {"manifest.json", "contents.npy"},
    {"manifest.json", "scores"},
    {"results.json", "results.csv"},
)
_MAX_NAMES = 5


@dataclass
class Listing:
    """The content of a folder, without hidden files and folders.

    Attributes:
        files: Relative paths with `/`, sorted.
        folders: Names of the sub-folders directly in it that were read, sorted.
        left_out: Relative path -> reason why it was not read.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def list_files(folder: Path, *, without: Collection[Path] = ()) -> Listing:
    """List the files below a folder.

    Args:
        folder: The folder.
        without: Folders below it that are not read, such as the folder of the results.

    Raises:
        UserError: If a folder cannot be read.
    """
    walk = _Walk(folder, without)
    walk.read("")
    while walk.links:
        walk.links.sort(reverse=True)
        walk.follow(walk.links.pop())
    listing = walk.listing
    listing.files.sort()
    listing.folders.sort()
    return listing


def describe_left_out(left_out: dict[str, str]) -> str:
    """The first few paths that were left out with their reasons, and the number of the others."""
    examples = [f"{name} ({reason})" for name, reason in sorted(left_out.items())[:_MAX_NAMES]]
    more = len(left_out) - len(examples)
    return ", ".join(examples) + (f" and {more} more" if more else "")


class _Walk:
    def __init__(self, folder: Path, without: Collection[Path]) -> None:
        self.listing = Listing()
        self.links: list[str] = []
        self._folder = folder
        self._real_folder = os.path.realpath(folder)
        self._without = {os.path.realpath(path) for path in without}
        self._read_as: dict[str, str] = {}  # real path -> relative path

    def follow(self, link: str) -> None:
        """Read the folder that a link points to, unless it was read before."""
        target = os.path.realpath(self._folder / link)
        if os.path.commonpath([target, self._real_folder]) == target:
            self._leave_out(link, "a link to an enclosing folder")
        else:
            self.read(link)

    def read(self, top: str) -> None:
        """Read a folder and its sub-folders; collect links to folders."""
        waiting = [top]
        while waiting:
            name = waiting.pop()
            real = os.path.realpath(self._folder / name)
            if real in self._read_as:
                self._leave_out(name, f"the same folder as {self._read_as[real]}")
                continue
            entries = [entry for entry in self._entries(name) if not entry.name.startswith(".")]
            names = {entry.name for entry in entries}
            if name and (real in self._without or any(marks <= names for marks in _RESULTS)):
                self._leave_out(name, "results of this program")
                continue
            self._read_as[real] = name
            if name and "/" not in name:
                self.listing.folders.append(name)
            for entry in entries:
                path = f"{name}/{entry.name}" if name else entry.name
                if not _is_folder(entry):
                    self.listing.files.append(path)
                elif entry.is_symlink():
                    self.links.append(path)
                else:
                    waiting.append(path)

    def _entries(self, name: str) -> list[os.DirEntry[str]]:
        path = self._folder / name
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except OSError as error:
            raise UserError(f"folder {path} cannot be read: {error.strerror}") from error

    def _leave_out(self, name: str, reason: str) -> None:
        self.listing.left_out[name] = reason


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False
