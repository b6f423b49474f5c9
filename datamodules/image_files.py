"""Image files: which files are images, and their pixels.

Folders, image lists and `--images` all ask here, so that they agree. Of a file with several frames
or pages the first one counts.
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

# A closed list: Pillow also knows formats that start other programs (EPS runs Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's suffixes of these formats. It reads MPO, of cameras with two lenses, as JPEG.
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)
# Pillow warns above this number, as the file might be a decompression bomb.
MAX_PIXELS = 89_478_485
# Rows are converted in strips, as the steps between would need several times the memory.
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
    """Why a file of a folder is not taken for an image; empty if it is one.

    A file is an image if it has the suffix of one, or if its content begins like one.

    Args:
        path: The file.
    """
    if path.suffix.lower() in SUFFIXES:
        return ""
    try:
        kind = kind_of(path)
        if kind != "a file":
            return "leads nowhere" if kind == "nothing" else kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS):
                return ""
    except Image.DecompressionBombError:
        return ""  # an image that is too large, as will be reported when it is read
    except PermissionError as error:
        return error.strerror
    except Exception:
        # Pillow's parsers raise what a strange file makes them stumble on.
        return "" if _is_png(path) else "not an image"


def read_image(path: str | Path) -> Tensor:
    """Read an image file.

    EXIF orientation is applied, transparency laid over white, palettes resolved, CMYK and the like
    converted to RGB. Grey images of 12 and 16 bits and of floats keep their precision. Damaged
    metadata (EXIF, ICC, XMP) are ignored.

    Args:
        path: A BMP, GIF, JPEG, JPEG 2000, PNG, PPM/PGM, TIFF or WebP file.

    Returns:
        float32 `(C, H, W)` in [0, 1] with C = 1 for grey and 3 for colour.

    Raises:
        UserError: If the file is absent, no such image, truncated or broken, has more than
            `MAX_PIXELS` pixels, or grey values whose scale is unknown.
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
            reason = f"it is none of {', '.join(FORMATS)}"
        raise UserError(f"image {path} cannot be read: {reason}") from error


def _decode(file: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes, which are checked here
        with Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise UserError(
                    f"it has {image.width} x {image.height} pixels, and more than {MAX_PIXELS:,} "
                    "are not read: make it smaller"
                )
            image.load()
            if image.mode == "F" or image.mode.startswith("I"):
                return _deep_grey(image)
            _check_unsigned(image)
            return _colours(_turned(image))


def _read_bare_png(path: Path) -> Tensor | None:
    """Read a PNG file by its pixels alone; None if it is no PNG file, or its pixels are broken.

    Pillow refuses the whole file over a chunk of metadata.
    """
    if not _is_png(path):
        return None
    data, place, kept = path.read_bytes(), len(_PNG), [_PNG]
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk, kind = data[place:end], data[place + 4 : place + 8]
        # The names of chunks that hold pixels begin with a capital.
        needed = kind[:1].isupper() or kind == b"tRNS"
        if needed or (kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])):
            kept.append(chunk)
        place = end
    try:
        return _decode(io.BytesIO(b"".join(kept)))
    except Exception:
        return None  # the error of the whole file is the one to report


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
        return image  # damaged metadata: the orientation is unknown, the pixels are sound
    return image if turn is None else image.transpose(turn)


def _colours(image: Image.Image) -> Tensor:
    """8-bit image -> float32 `(C, H, W)` in [0, 1]."""
    grey, clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = ("LA" if grey else "RGBA") if clear else ("L" if grey else "RGB")
    width, height = image.size
    pixels = torch.empty(1 if grey else 3, height, width)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom)).convert(mode)
        values = torch.from_numpy(np.array(strip, dtype=np.float32)) / 255.0
        values = values.view(bottom - top, width, -1).permute(2, 0, 1)
        if clear:
            colour, alpha = values[:-1], values[-1:]
            values = colour * alpha + (1.0 - alpha)
        pixels[:, top:bottom] = values
    return pixels


def _deep_grey(image: Image.Image) -> Tensor:
    """Grey image of more than 8 bits -> float32 `(1, H, W)` in [0, 1]."""
    white, inverted = _white(image), _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = torch.from_numpy(np.array(_turned(image), dtype=np.float32)).div_(white)
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise UserError(
            f"grey values of mode {image.mode} must lie in [0, {white:g}], got "
            f"[{low * white:g}, {high * white:g}]: convert it to 8 or 16 bits"
        )
    return (1.0 - pixels if inverted else pixels)[None]


def _white(image: Image.Image) -> float:
    """The value that stands for white in a grey image of more than 8 bits."""
    if image.mode == "F":
        return 1.0
    if image.format != "TIFF":
        return 65535.0  # PNG, PGM and JPEG 2000 have a scale of their own; Pillow brings it to this
    _check_unsigned(image)
    bits = int(_tag(image, _BITS) or 0)
    if bits not in (12, 16):
        raise UserError(
            f"grey values are integers of {bits} bits, and which one is white is unknown: "
            "convert it to 8 or 16 bits"
        )
    return 2.0**bits - 1.0


def _check_unsigned(image: Image.Image) -> None:
    if _tag(image, _SAMPLE_FORMAT) not in (None, _UNSIGNED):
        raise UserError(
            "values are signed integers, and which one is black or white is unknown: convert it "
            "to 8 or 16 bits without sign"
        )


def _tag(image: Image.Image, tag: int) -> Any:
    """The value of a TIFF tag, the first of several; None if there is none."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value
