"""Thumbnails of reconstructions on disk, which a run writes while it scores.

Each process appends to a file of its own in `scores/`: a line of JSON per image, with its set, its
index and its pictures as data URIs. A torn last line is never read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.report.html.thumbnails import Thumbnail
from diffguard.storage.files import refuse_links, write_error
from diffguard.storage.reading import open_regular

_LONGEST = 2**20  # bytes of a line


class _Record(TypedDict):
    dataset: str
    index: int
    pictures: dict[str, str]  # heading -> data URI


_RECORD = TypeAdapter(_Record)

Images = Iterable[tuple[str, int, Sequence[Thumbnail]]]


class ThumbnailWriter:
    """Appends the thumbnails of images to a new file, which is created with the first of them.

    Args:
        folder: The evaluation folder.
        rank: Number of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = Path(folder) / "scores", rank
        self._path: Path | None = None

    def write(self, images: Images) -> None:
        """Append (dataset, index, thumbnails) of images.

        Raises:
            UserError: If the file cannot be written.
        """
        lines = [
            json.dumps(
                {
                    "dataset": dataset,
                    "index": index,
                    "pictures": {picture.head: picture.source for picture in pictures},
                }
            )
            for dataset, index, pictures in images
        ]
        if not lines:
            return
        path = self._path or self._create()
        try:
            with path.open("a", encoding="ascii") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise write_error(path, error) from error

    def _create(self) -> Path:
        """Create the file; one of an earlier session, which may still be alive, is left alone."""
        refuse_links(self._folder)
        for session in count(1):
            suffix = "" if session == 1 else f".{session}"
            path = self._folder / f"thumbnails-{self._rank}{suffix}.jsonl"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(exist_ok=False)
            except FileExistsError:
                continue
            except OSError as error:
                raise write_error(path, error) from error
            self._path = path
            return path
        raise AssertionError


def read_thumbnails(
    folder: Path, images: Collection[tuple[str, int]]
) -> dict[tuple[str, int], list[Thumbnail]]:
    """Read the thumbnails of images.

    Args:
        folder: The evaluation folder.
        images: (dataset, index) of the images.

    Returns:
        (dataset, index) -> thumbnails; without the images that have none.

    Raises:
        UserError: If a file is damaged in a way that a crash does not explain.
    """
    selected, thumbnails = frozenset(images), {}
    for path in sorted((Path(folder) / "scores").glob("thumbnails-*.jsonl")):
        for record in _records(path):
            image = record["dataset"], record["index"]
            if image in selected:
                thumbnails[image] = [Thumbnail(*pair) for pair in record["pictures"].items()]
    return thumbnails


def _records(path: Path) -> Iterator[_Record]:
    with open_regular(path) as file:
        for number in count(1):
            line = file.readline(_LONGEST)
            if not line or (len(line) < _LONGEST and not line.endswith(b"\n")):
                return
            try:
                yield _RECORD.validate_json(line, strict=True)
            except ValidationError as error:
                raise UserError(
                    f"{path}, line {number}, is damaged: expected the thumbnails of an image; "
                    "delete the file; the report then lacks its pictures"
                ) from error
