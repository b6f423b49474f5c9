"""Pictures of the gallery as data URIs, limited in size and in number."""

from __future__ import annotations

import base64
import io
from collections.abc import Container, Sequence
from dataclasses import dataclass

from PIL import Image

from diffguard.report.panel import PanelRow, colored

SIDE = 160
"""Largest side of a picture in pixels."""
SMALL_SIDE = 96
"""Largest side of a picture that is not made again for the report."""
# Smaller pictures are lossless, because JPEG would blur their few pixels.
_LOSSLESS = 64


@dataclass(frozen=True)
class Thumbnail:
    """A picture with its heading.

    Attributes:
        head: The heading.
        source: A data URI.
    """

    head: str
    source: str


def thumbnails(row: PanelRow, side: int = SIDE, *, without: Container[str] = ()) -> list[Thumbnail]:
    """The pictures of an image, the input first.

    Args:
        row: The image.
        side: Largest side of a picture in pixels.
        without: Headings of pictures that are left out.
    """
    return [
        Thumbnail(head, _data_uri(Image.fromarray(colored(head, picture, row.image).numpy()), side))
        for head, picture in row.pictures.items()
        if head not in without
    ]


def within_budget(images: Sequence[Sequence[Thumbnail]], budget: int) -> list[Sequence[Thumbnail]]:
    """The pictures that fit on a page: the inputs, then the other pictures of the first images.

    Args:
        images: The pictures of each image, the input first.
        budget: Bytes of all data URIs.

    Returns:
        For each image all of its pictures, its input alone, or none.
    """
    counts = [0] * len(images)
    for end in (1, None):
        for place, pictures in enumerate(images):
            budget -= sum(len(picture.source) for picture in pictures[counts[place] : end])
            if budget < 0:
                break
            counts[place] = len(pictures[:end])
    return [pictures[:count] for pictures, count in zip(images, counts, strict=True)]


def _data_uri(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side))
    kind = "PNG" if max(image.size) <= _LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=88, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{code}"
