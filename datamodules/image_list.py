"""OpenOOD's image lists: lines `relative/path label`."""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from diffguard.errors import UserError
from diffguard.storage.paths import require_file
from diffguard.storage.reading import open_regular

# More than the largest data sets have. A larger label would take memory for all classes below it.
MAX_CLASSES = 100_000
_LARGEST_LIST = 2**30
_LABEL = re.compile(r"-?[0-9]{1,9}")


@dataclass
class ImageList:
    """The content of an image list.

    Attributes:
        paths: The relative path of each image.
        labels: The label of each image, -1 … `MAX_CLASSES` - 1.
        lines: The line number of each image, from 1.
        repeated: Number of images that occur again.
    """

    paths: list[str] = field(default_factory=list)
    labels: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    repeated: int = 0


def read_list(file: Path) -> ImageList:
    """Read an image list.

    A path may contain spaces; the last field is the label. All line endings and empty lines are
    accepted. Bytes that are not UTF-8 are preserved.

    Args:
        file: The list.

    Raises:
        UserError: If it is not a text file, a line is malformed, a label is out of range, or an
            image has two labels.
    """
    with open_regular(require_file(file, "image list")) as lines:
        if os.fstat(lines.fileno()).st_size > _LARGEST_LIST:
            raise UserError(f"image list {file} is larger than {_LARGEST_LIST:,} bytes: split it")
        content = lines.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"image list {file} is UTF-16 text: save it as UTF-8")
    rows = ImageList()
    labels: dict[str, int] = {}
    text = content.decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        path, label = _parse(line, place)
        if labels.setdefault(path, label) != label:
            raise UserError(f"{place}: {path!r} has the label {labels[path]} in another line")
        rows.paths.append(path)
        rows.labels.append(label)
        rows.lines.append(number)
    rows.repeated = len(rows.paths) - len(labels)
    return rows


def _parse(line: str, place: str) -> tuple[str, int]:
    path, *rest = line.strip().rsplit(maxsplit=1)
    if "\0" in line or not rest or not re.fullmatch(r"[+-]?[0-9]+", rest[0]):
        raise UserError(f"{place}: expected `relative/path label`, got {line[:80]!r}")
    if not _LABEL.fullmatch(rest[0]) or not -1 <= int(rest[0]) < MAX_CLASSES:
        raise UserError(
            f"{place}: expected a label from 0 to {MAX_CLASSES - 1}, or -1 for an OOD image, got "
            f"{rest[0][:20]}"
        )
    return path, int(rest[0])
