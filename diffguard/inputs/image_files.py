"""Image files: which files are images, and their pixels.

Folders, image lists and `--images` all use this module, so that they agree. Only the first frame or
page of a file is read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffguard.errors import UserError, reason_of
from diffguard.inputs.bare_images import has_metadata, without_metadata
from diffguard.inputs.pil_images import pixels_of, without_warnings
from diffguard.storage.paths import kind_of, require_file

# A closed list, because some of Pillow's formats start other programs (EPS runs Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's suffixes of these formats. MPO files, from cameras with two lenses, are read as JPEG.
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)
# Bytes of a file that is read into memory; images of the most pixels take less.
_LARGEST_IMAGE = 2**30


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
        with without_warnings():
            Image.open(path, formats=FORMATS).close()
    except Image.DecompressionBombError:
        return ""  # an image that is too large; reading it reports that
    except PermissionError as error:
        return str(error.strerror)
    except Exception:
        # Pillow's parsers raise many kinds of exceptions on malformed files.
        return "" if has_metadata(path) else "not an image"
    return ""


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
        pixels = _decode_without_metadata(Path(path))
        if pixels is not None:
            return pixels
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise UserError(f"image {path} cannot be read: {reason}") from error


def read_encoded(content: bytes) -> Tensor:
    """Read an image from the bytes of its file, by the rules of `read_image`.

    Args:
        content: The file's content.

    Returns:
        float32 `(C, H, W)` in [0, 1], C = 1 for grayscale and 3 for color.

    Raises:
        UserError: If `read_image` would refuse the file.
    """
    try:
        return _decode(io.BytesIO(content))
    except UserError:
        raise
    except Exception as error:
        # Pillow's parsers raise many kinds of exceptions on malformed files.
        raise UserError(f"it cannot be read: {reason_of(error)}") from error


def _decode(file: Any) -> Tensor:
    with without_warnings(), Image.open(file, formats=FORMATS) as image:
        return pixels_of(image)


def _decode_without_metadata(path: Path) -> Tensor | None:
    """Decode a file whose metadata may be damaged; None if the pixels are damaged too."""
    if not has_metadata(path) or path.stat().st_size > _LARGEST_IMAGE:
        return None
    try:
        return _decode(io.BytesIO(without_metadata(path.read_bytes())))
    except Exception:
        return None  # the caller reports the error of the whole file
