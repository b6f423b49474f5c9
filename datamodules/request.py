"""A source that is to be opened, with the settings that it depends on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.image_set import ImageSet
from diffguard.errors import UserError

# KIND:WORD/WORD…, or KIND:WORD/WORD…[FIRST:END]; either number may be omitted.
_SECTION = re.compile(
    r"((?:torchvision|hf):(\w[\w.+-]*(?:/\w[\w.+-]*)*))(?:\[([0-9]*):([0-9]*)\])?"
)


@dataclass(frozen=True)
class Request:
    """A source and how to open it.

    Attributes:
        name: The set's name.
        source: The source as the user wrote it.
        argument: The source without its kind.
        root: The folder that the source is relative to.
        labeled: Whether the label of an image is its class (ID sets) or -1 (OOD sets).
        class_names: Class names in the order of the labels, if they are given.
        download: Whether absent data are downloaded.
    """

    name: str
    source: str
    argument: str
    root: Path
    labeled: bool
    class_names: Sequence[str] | None
    download: bool

    def bad(self, expected: str) -> UserError:
        """The error for a source of a wrong form."""
        return UserError(f"source {self.source!r} of set {self.name!r}: expected {expected}")


@dataclass(frozen=True)
class Section:
    """A source of a library's data set: its words, and the images that are taken.

    Attributes:
        whole: The source without the numbers of images.
        words: The parts of its name.
        first: The first image.
        end: The image after the last; None for all.
    """

    whole: str
    words: tuple[str, ...]
    first: int
    end: int | None

    @classmethod
    def parse(cls, source: str) -> Section | None:
        """Read `torchvision:NAME/PART[FIRST:END]` or the like; None if the form is wrong."""
        match = _SECTION.fullmatch(source)
        if match is None:
            return None
        return cls(
            match[1],
            tuple(match[2].split("/")),
            int(match[3] or 0),
            int(match[4]) if match[4] else None,
        )

    def overlaps(self, other: Section) -> bool:
        """Whether two sections have images in common."""
        if self._folder != other._folder:
            return False
        if self.words[-1] != other.words[-1]:
            return bool(_parts(self.words[-1]) & _parts(other.words[-1]))
        ends = [section.end for section in (self, other) if section.end is not None]
        return not ends or max(self.first, other.first) < min(ends)

    @property
    def _folder(self) -> tuple[str, ...]:
        """The kind and the words before the part; a `default` config of the hub may be omitted."""
        kind, folder = self.whole.split(":")[0], self.words[:-1]
        if kind == "hf" and len(folder) == 3 and folder[2] == "default":
            folder = folder[:2]
        return kind, *folder

    def cut(self, images: ImageSet, request: Request) -> ImageSet:
        """The set with only the images of the section.

        Raises:
            UserError: If there are none.
        """
        count = len(images)
        images.indices = range(self.first, min(count if self.end is None else self.end, count))
        if not images.indices:
            raise request.bad(f"at least one of the {count} images of {'/'.join(self.words)}")
        return images


def _parts(word: str) -> set[str]:
    """The parts that a combined part, such as `trainval` or `train+unlabeled`, consists of."""
    return set(word.replace("trainval", "train+val").split("+"))
