"""Pictures of the gallery as data URIs, limited in size and in number."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from diffguard.report.panel import PanelRow, colored

SIDE = 160
"""Largest side of a picture in pixels."""
# Bytes of all pictures: with scripts and the texts of 2,000 images, a page stays below 25 MB.
_BUDGET = 12_000_000
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


class Thumbnails:
    """Encodes pictures until their budget is used up.

    Args:
        budget: Bytes of all data URIs.

    Attributes:
        left_out: Number of images that came too late.
    """

    def __init__(self, budget: int = _BUDGET) -> None:
        self._rest = budget
        self.left_out = 0

    def of(self, row: PanelRow | None) -> list[Thumbnail]:
        """The pictures of an image; none once the budget is used up."""
        if row is None:
            return []
        if self.left_out:  # encoding further images would only take time
            self.left_out += 1
            return []
        pictures = [
            Thumbnail(head, _data_uri(Image.fromarray(colored(head, picture, row.image).numpy())))
            for head, picture in row.pictures.items()
        ]
        size = sum(len(picture.source) for picture in pictures)
        if size > self._rest:
            self.left_out += 1
            return []
        self._rest -= size
        return pictures


def _data_uri(image: Image.Image) -> str:
    image.thumbnail((SIDE, SIDE))
    kind = "PNG" if max(image.size) <= _LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=88, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{code}"
