"""Image files: which files are images, and their pixels.

Folders, image lists and `--images` all use this module, so that they agree. Only the first frame or
page of a file is read.
"""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from diffguard.errors import UserError
from diffguard.storage.paths import kind_of, require_file

# A closed list, because some of Pillow's formats start other programs (EPS runs Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's suffixes of these formats. MPO files, from cameras with two lenses, are read as JPEG.
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)
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
_PNG = b"\x89PNG\r\n\x1a\n"
# Tags of TIFF files.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _FLOAT = 0, 1, 3


def why_no_image(path: Path) -> str:
    """Why a file in a folder is not an image; empty if it is one.

    A file is an image if it has the suffix of an image, or if its content begins like one.

    Args:
        path: The file.
    """
    if path.suffix.lower() in SUFFIXES:
        return ""
    try:
        kind = kind_of(path)
        if kind != "a file":
            return "a broken link" if kind == "nothing" else kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS):
                return ""
    except Image.DecompressionBombError:
        return ""  # an image that is too large; reading it reports that
    except PermissionError as error:
        return error.strerror
    except Exception:
        # Pillow's parsers raise many kinds of exceptions on malformed files.
        return "" if _is_png(path) else "not an image"


def read_image(path: str | Path) -> Tensor:
    """Read an image file.

    EXIF orientation is applied, transparency is composited over white, and palettes, CMYK and
    similar modes are converted to RGB. Grayscale images of 12 bits, 16 bits and floats keep their
    precision. Damaged metadata (EXIF, ICC, XMP) are ignored.

    Args:
        path: A BMP, GIF, JPEG, JPEG 2000, PNG, PPM/PGM, TIFF or WebP file.

    Returns:
        float32 `(C, H, W)` in [0, 1], C = 1 for grayscale and 3 for color.

    Raises:
        UserError: If the file is absent, not an image of these formats, truncated or damaged, has
            more than `MAX_PIXELS` pixels, or has gray values of unknown scale.
    """
    require_file(path, "image")
    try:
        return _decode(path)
    except UserError as error:
        raise UserError(f"image {path} is refused: {error}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"image {path} is refused: {error}") from None
    except Exception as error:
        pixels = _read_bare_png(Path(path))
        if pixels is not None:
            return pixels
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise UserError(f"image {path} cannot be read: {reason}") from error


def _decode(file: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about damaged metadata and sizes; the size is checked below
        with Image.open(file, formats=FORMATS) as image:
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


def _read_bare_png(path: Path) -> Tensor | None:
    """Read a PNG file without its metadata; None if it is not a PNG file or its pixels are damaged.

    Pillow rejects a whole file because of one damaged chunk of metadata.
    """
    if not _is_png(path):
        return None
    data, place, chunks = path.read_bytes(), len(_PNG), [_PNG]
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk, kind = data[place:end], data[place + 4 : place + 8]
        # The names of critical chunks, such as the pixels, begin with a capital letter.
        needed = kind[:1].isupper() or kind == b"tRNS"
        if needed or (kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])):
            chunks.append(chunk)
        place = end
    try:
        return _decode(io.BytesIO(b"".join(chunks)))
    except Exception:
        return None  # the caller reports the error of the whole file


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PNG)) == _PNG
    except OSError:
        return False


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
