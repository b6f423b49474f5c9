"""The pixels of a PIL image, opened from a file or made in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from diffguard.errors import UserError, reason_of

# Above this number Pillow warns of a decompression bomb.
MAX_PIXELS = 89_478_485
# Images are converted in strips of rows, because conversion takes several times the memory.
_STRIP_PIXELS = 1 << 20

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of TIFF files.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _FLOAT = 0, 1, 3


def decode(image: Image.Image) -> Tensor:
    """Decode a PIL image by the rules of `image_files.read_image`; EXIF orientation is applied too.

    Args:
        image: A PIL image, opened from a file or made in memory.

    Returns:
        float32 `(C, H, W)` in [0, 1], C = 1 for grayscale and 3 for color.

    Raises:
        UserError: If its file is truncated or damaged, or it has more than `MAX_PIXELS` pixels or
            gray values of unknown scale.
    """
    if image.mode == "I" and image.format is None:
        raise UserError(
            "a PIL image of mode I has 32-bit integers, and the value of white is unknown: convert "
            "it to 8 bits (mode L) or 16 bits (mode I;16)"
        )
    try:
        with without_warnings():
            return pixels_of(image)
    except UserError as error:
        raise UserError(f"the PIL image is refused: {error}") from None
    except Exception as error:
        # Pillow's decoders raise many kinds of exceptions on damaged data.
        raise UserError(f"the PIL image cannot be decoded: {reason_of(error)}") from error


def pixels_of(image: Image.Image) -> Tensor:
    """Like `decode`, but exceptions of Pillow pass through."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UserError(
            f"it has {image.width} x {image.height} pixels, expected at most "
            f"{MAX_PIXELS:,} in all: make it smaller"
        )
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray(image)
    _check_unsigned(image)
    return _colors(_turned(image))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about damaged metadata and size; `pixels_of` checks the size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation shows it."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image  # damaged metadata: the orientation is unknown, the pixels are intact
    return image if turn is None else image.transpose(turn)


def _colors(image: Image.Image) -> Tensor:
    """8-bit image -> float32 `(C, H, W)` in [0, 1]."""
    gray, clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = ("LA" if gray else "RGBA") if clear else ("L" if gray else "RGB")
    width, height = image.size
    pixels = torch.empty(1 if gray else 3, height, width)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom)).convert(mode)
        values = torch.from_numpy(np.array(strip, dtype=np.float32)) / 255.0
        values = values.view(bottom - top, width, -1).permute(2, 0, 1)
        if clear:
            color, alpha = values[:-1], values[-1:]
            values = color * alpha + (1.0 - alpha)
        pixels[:, top:bottom] = values
    return pixels


def _deep_gray(image: Image.Image) -> Tensor:
    """Grayscale image of more than 8 bits -> float32 `(1, H, W)` in [0, 1]."""
    white, inverted = _white(image), _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = torch.from_numpy(np.array(_turned(image), dtype=np.float32)).div_(white)
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise UserError(
            f"gray values of mode {image.mode} must lie in [0, {white:g}], got "
            f"[{low * white:g}, {high * white:g}]: convert it to 8 or 16 bits"
        )
    return (1.0 - pixels if inverted else pixels)[None]


def _white(image: Image.Image) -> float:
    """The value of white in a grayscale image of more than 8 bits."""
    if image.mode == "F":
        return 1.0
    if image.format != "TIFF":
        return 65535.0  # Pillow brings PNG, PGM and JPEG 2000 to this scale
    _check_unsigned(image)
    bits = int(_tag(image, _BITS) or 0)
    if bits not in (12, 16):
        raise UserError(
            f"gray values are {bits}-bit integers, and the value of white is unknown: convert it "
            "to 8 or 16 bits"
        )
    return 2.0**bits - 1.0


def _check_unsigned(image: Image.Image) -> None:
    if _tag(image, _SAMPLE_FORMAT) not in (None, _UNSIGNED):
        raise UserError(
            "values are signed integers, and the values of black and white are unknown: convert it "
            "to unsigned 8 or 16 bits"
        )


def _tag(image: Image.Image, tag: int) -> Any:
    """The value of a TIFF tag, or the first of several values; None if it is absent."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value
