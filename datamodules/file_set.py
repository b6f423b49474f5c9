"""Sets of image files: all images below a folder, or those that an image list names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.image_set import ImageSet, MissingDataError, no_labels
from datamodules.transforms import read_image
from diffguard.errors import UserError

IMAGE_SUFFIXES = {
    ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip


class FileSet(ImageSet):
    """A set of image files.

    Args:
        name: See `ImageSet`.
        root: The folder that the paths are relative to.
        paths: One relative path per image.
        labels: See `ImageSet`.
        class_names: See `ImageSet`.
        path_is_key: Whether an image's key is its path (folders) or its index (image lists).
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        labels: Tensor,
        class_names: Sequence[str] | None = None,
        *,
        path_is_key: bool,
    ) -> None:
        super().__init__(name, labels, class_names)
        self._root, self._paths, self._path_is_key = root, paths, path_is_key

    def image(self, index: int) -> Tensor:
        """Read one image file."""
        return read_image(self._root / self._paths[index])

    def path(self, index: int) -> str:
        """The relative path."""
        return self._paths[index]

    def key(self, index: int) -> str:
        """The relative path in a folder, the index in an image list."""
        return self._paths[index] if self._path_is_key else str(index)

    def content(self, index: int) -> int:
        """The size of the file in bytes; -1 if it is absent."""
        try:
            return (self._root / self._paths[index]).stat().st_size
        except OSError:
            return -1


def _files_below(folder: Path) -> Iterator[Path]:
    """Files that are not hidden; links to folders are followed, but no folder is read twice."""

    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}")

    seen = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def folder_set(
    name: str,
    folder: Path,
    *,
    labelled: bool = False,
    class_names: Sequence[str] | None = None,
    any_file: bool = False,
) -> FileSet:
    """All images below a folder, in the order of their relative paths, which are their keys.

    Args:
        name: The set's name.
        folder: The folder; hidden files and folders are passed over.
        labelled: Take the first sub-folder on an image's path as its class.
        class_names: The sub-folders in the order of the labels; default: sorted.
        any_file: Take every file for an image, so that one that is none comes to light; default:
            those with the suffix of an image.

    Raises:
        MissingDataError: If the folder is absent or holds no image.
        UserError: If an image lies in no known class folder.
    """
    if not folder.is_dir():
        raise MissingDataError(f"folder {folder} does not exist")
    paths = sorted(
        path.relative_to(folder).as_posix()
        for path in _files_below(folder)
        if any_file or path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not paths:
        raise MissingDataError(f"folder {folder} holds no images")
    if not labelled:
        return FileSet(name, folder, paths, no_labels(len(paths)), path_is_key=True)
    subfolders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    names = list(class_names or subfolders)
    label_of = {class_name: label for label, class_name in enumerate(names)}
    labels = [label_of.get(path.partition("/")[0], -1) for path in paths]
    if -1 in labels:
        raise UserError(
            f"set {name!r}: {folder / paths[labels.index(-1)]} lies in no known class folder: "
            f"expected {folder}/CLASS/…, CLASS one of {', '.join(names[:12]) or '(none)'}"
        )
    return FileSet(name, folder, paths, torch.tensor(labels), names, path_is_key=True)


def list_set(
    name: str,
    list_file: Path,
    folder: Path,
    *,
    labelled: bool,
    class_names: Sequence[str] | None = None,
) -> FileSet:
    """The images of an OpenOOD image list: lines of `relative/path label`; the key is the index.

    Args:
        name: The set's name.
        list_file: The list; a path may hold spaces, the last field is the label.
        folder: The folder that the paths are relative to.
        labelled: Keep the labels; else all are -1, whatever the list says.
        class_names: Names of the classes.

    Raises:
        MissingDataError: If the list, or the first image it names, is absent, or it is empty.
        UserError: If a line has another form, or an ID image a negative label.
    """
    if not list_file.is_file():
        raise MissingDataError(f"image list {list_file} does not exist (images in {folder})")
    paths, labels = [], []
    text = list_file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            path, label = line.strip().rsplit(maxsplit=1)
            paths.append(path)
            labels.append(int(label))
        except ValueError:
            raise UserError(
                f"{list_file}, line {number}: expected `relative/path label`, got {line[:80]!r}"
            ) from None
        if labelled and labels[-1] < 0:
            raise UserError(
                f"{list_file}, line {number}: an ID image needs a class ≥ 0, got {line[:80]!r}"
            )
    if not paths:
        raise MissingDataError(f"image list {list_file} names no image")
    if not (folder / paths[0]).is_file():
        raise MissingDataError(f"image {folder / paths[0]} of {list_file} does not exist")
    if not labelled:
        return FileSet(name, folder, paths, no_labels(len(paths)), path_is_key=False)
    return FileSet(name, folder, paths, torch.tensor(labels), class_names, path_is_key=False)
