"""Sets of image files: all images below a folder, or the images of an image list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.folders import describe_left_out, list_files
from datamodules.hashing import file_hash
from datamodules.image_list import read_list
from datamodules.image_set import ImageSet, MissingDataError, no_labels
from datamodules.list_versions import list_version
from diffguard.errors import UserError
from diffguard.inputs.image_files import read_image, why_no_image
from diffguard.storage.paths import kind_of


class FileSet(ImageSet):
    """A set of image files.

    Args:
        name: See `ImageSet`.
        root: The folder that the paths are relative to.
        paths: The relative path of each image.
        labels: See `ImageSet`.
        class_names: See `ImageSet`.
        path_is_key: Whether an image's key is its path (folders) or its index (image lists).

    Attributes:
        lines: The line number of each image in the image list; empty for a folder.
        list_file: The image list, if there is one.
    """

    lines: Sequence[int] = ()
    list_file: Path | None = None

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

    def origin(self, index: int) -> str:
        """The line in the image list, or the file."""
        if self.lines:
            return f"{self.list_file}, line {self.lines[index]}"
        return str(self._root / self._paths[index])

    def key(self, index: int) -> str:
        """The relative path in a folder, the index in an image list."""
        return self._paths[index] if self._path_is_key else str(index)

    def content(self, index: int) -> int:
        """See `file_hash`."""
        return file_hash(self._root / self._paths[index])


def folder_set(
    name: str,
    folder: Path,
    *,
    labeled: bool = False,
    class_names: Sequence[str] | None = None,
    any_file: bool = False,
    without: Collection[Path] = (),
) -> FileSet:
    """All images below a folder, ordered by relative path, which is also the key.

    The set's `remarks` list the files that are left out, except hidden files and folders.

    Args:
        name: The set's name.
        folder: The folder. Results of this program in it are left out.
        labeled: Whether the first sub-folder of an image's path is its class.
        class_names: The sub-folders in the order of the labels; default: sorted.
        any_file: Whether every file counts as an image, so that reading reports the files that are
            not images; default: only files with the suffix or the content of an image.
        without: Folders below it that are left out.

    Raises:
        MissingDataError: If the folder is absent or holds no image.
        UserError: If an image does not lie in a class folder, or a class folder has no images.
    """
    kind = kind_of(folder)
    if kind != "a folder":
        problem = "does not exist" if kind == "nothing" else f"is {kind}, expected a folder"
        raise MissingDataError(f"folder {folder} {problem}")
    listing = list_files(folder, without=without)
    paths, left_out = [], dict(listing.left_out)
    for path in listing.files:
        reason = "" if any_file else why_no_image(folder / path)
        if reason:
            left_out[path] = reason
        else:
            paths.append(path)
    if not paths:
        content = f", only {describe_left_out(left_out)}" if left_out else ""
        raise MissingDataError(f"folder {folder} has no images{content}")
    labels, names = no_labels(len(paths)), None
    if labeled:
        names = list(class_names or _class_folders(name, folder, listing.folders, paths))
        labels = _labels_of(name, folder, paths, names)
    images = FileSet(name, folder, paths, labels, names, path_is_key=True)
    if left_out:
        images.remarks = [f"set {name!r}: left out below {folder}: {describe_left_out(left_out)}"]
    return images


def _class_folders(
    name: str, folder: Path, subfolders: Sequence[str], paths: Sequence[str]
) -> Sequence[str]:
    """The sub-folders. Each is a class and must have an image."""
    used = {path.partition("/")[0] for path in paths}
    empty = [subfolder for subfolder in subfolders if subfolder not in used]
    if empty:
        raise UserError(
            f"set {name!r}: the class folder {folder / empty[0]} has no images: remove it, or list "
            "the class folders in data.class_names"
        )
    return subfolders


def _labels_of(name: str, folder: Path, paths: Sequence[str], names: Sequence[str]) -> Tensor:
    label_of = {class_name: label for label, class_name in enumerate(names)}
    labels = [label_of.get(path.partition("/")[0], -1) for path in paths]
    if -1 in labels:
        raise UserError(
            f"set {name!r}: {folder / paths[labels.index(-1)]} does not lie in a class folder: "
            f"expected {folder}/CLASS/…, CLASS one of {', '.join(names[:12]) or '(none)'}"
        )
    return torch.tensor(labels)


def list_set(
    name: str,
    list_file: Path,
    folder: Path,
    *,
    labeled: bool,
    class_names: Sequence[str] | None = None,
) -> FileSet:
    """The images of an OpenOOD image list; the key is the index.

    Args:
        name: The set's name.
        list_file: The list, see `image_list.py`.
        folder: The folder that the paths are relative to.
        labeled: Whether to keep the labels; otherwise all are -1.
        class_names: Names of the classes.

    Raises:
        MissingDataError: If the list or its first image is absent, or the list is empty.
        UserError: If the list is malformed, or an ID image has a negative label.
    """
    if kind_of(list_file) == "nothing":
        raise MissingDataError(f"image list {list_file} does not exist (images in {folder})")
    rows = read_list(list_file)
    if not rows.paths:
        raise MissingDataError(f"image list {list_file} is empty")
    if kind_of(folder / rows.paths[0]) == "nothing":
        raise MissingDataError(f"image {folder / rows.paths[0]} of {list_file} does not exist")
    labels = torch.tensor(rows.labels) if labeled else no_labels(len(rows.paths))
    images = FileSet(
        name, folder, rows.paths, labels, class_names if labeled else None, path_is_key=False
    )
    images.lines, images.list_file = rows.lines, list_file
    images.list_version = list_version(list_file, rows.paths, rows.labels)
    if labeled and -1 in rows.labels:
        place = images.origin(rows.labels.index(-1))
        raise UserError(f"{place}: an ID image needs a label of at least 0, got -1")
    remarks = []
    if rows.repeated:
        remarks.append(f"set {name!r}: {list_file} repeats {rows.repeated} images")
    if images.list_version == "differs":
        remarks.append(
            f"set {name!r}: {list_file} ({len(rows.paths):,} images) is not OpenOOD v1.5's list of "
            "this name: results cannot be compared with its leaderboard"
        )
    images.remarks = remarks
    return images
