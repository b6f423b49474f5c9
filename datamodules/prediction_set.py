"""The images of `evaluate.py --images`: files, folders and patterns."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from datamodules.file_set import FileSet, folder_set
from datamodules.image_set import ImageSet, MissingDataError, no_labels
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.paths import kind_of, user_path


def prediction_set(paths: Sequence[str | Path], without: Collection[Path] = ()) -> ImageSet:
    """Files as one set, `images`: the given ones, and every file below the given folders.

    Below a folder, hidden files, results of this program and the folders in `without` are left
    out. A file that is given twice is taken once. If there is one folder and nothing else, the
    paths of the images are relative to it; otherwise they are as given.

    Args:
        paths: Files, folders and patterns, see `matches`.
        without: Folders that are left out.

    Raises:
        UserError: If a path is absent, a pattern matches nothing, or a folder has no file.
    """
    places = [place for path in paths for place in matches(path)]
    if len(places) == 1 and kind_of(places[0]) == "a folder":
        images = _folder(places[0], without)
    else:
        images = _files(places, without)
    print_remarks(images)
    return images


@rank_zero_only
def print_remarks(images: ImageSet) -> None:
    """Print the remarks about a set on stderr, in the first process only."""
    for remark in images.remarks:
        say(f"note: {remark}", file=sys.stderr)


def matches(path: str | Path) -> list[Path]:
    """The path if it exists, otherwise what it matches as a pattern, sorted.

    Args:
        path: A file, a folder, or a pattern such as `photos/*.jpg` or `photos/**/*.jpg`.

    Raises:
        UserError: If there is nothing.
    """
    path = user_path(path, "--images")
    if os.path.lexists(path):
        return [path]
    if glob.has_magic(str(path)):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns
        if not names:
            raise UserError(f"--images {path} matches no file: check the pattern")
        return [Path(name) for name in names]
    raise UserError(f"--images {path} does not exist: name image files or folders with images")


def _folder(folder: Path, without: Collection[Path]) -> FileSet:
    try:
        return folder_set("images", folder, any_file=True, without=without)
    except MissingDataError as error:
        raise UserError(f"{error}: name a folder with image files") from None


def _files(places: Sequence[Path], without: Collection[Path]) -> FileSet:
    """The files at some places, each once, in the order given."""
    files: dict[str, str] = {}  # real path -> path
    remarks: list[str] = []
    for place in places:
        if kind_of(place) == "a folder":
            below = _folder(place, without)
            remarks += below.remarks
            names = [str(place / below.path(index)) for index in below.indices]
        else:
            names = [str(place)]
        for name in names:
            files.setdefault(os.path.realpath(name), name)
    paths = list(files.values())
    images = FileSet("images", Path(), paths, no_labels(len(paths)), path_is_key=True)
    images.remarks = remarks
    return images
