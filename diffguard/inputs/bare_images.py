"""Image files without their metadata.

Pillow rejects a whole PNG or TIFF file because of one damaged entry of metadata. Without that entry
the pixels can be read.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
# Tags of TIFF files that describe the pixels, and the orientation.
_PIXEL_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
        *(322, 323, 324, 325, 332, 334, 338, 339, 340, 341, 347, 529, 530, 531, 532),
    }
)
_ENTRY = 12  # bytes of an entry in the directory of a TIFF file


def has_metadata(path: Path) -> bool:
    """Whether a file begins like a format whose metadata `without_metadata` knows."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_PNG))
    except OSError:
        return False
    return start == _PNG or start[:4] in _TIFF


def without_metadata(data: bytes) -> bytes:
    """The same image without metadata, apart from an intact orientation.

    Args:
        data: The content of a PNG or TIFF file.

    Raises:
        ValueError: If the structure of the file is damaged too.
    """
    if data.startswith(_PNG):
        return _bare_png(data)
    if data[:4] in _TIFF:
        return _bare_tiff(data, _TIFF[data[:4]])
    raise ValueError("expected the content of a PNG or TIFF file")


def _bare_png(data: bytes) -> bytes:
    place, chunks = len(_PNG), [_PNG]
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk, kind = data[place:end], data[place + 4 : place + 8]
        # The names of critical chunks, such as the pixels, begin with a capital letter.
        needed = kind[:1].isupper() or kind == b"tRNS"
        if needed or (kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])):
            chunks.append(chunk)
        place = end
    return b"".join(chunks)


def _bare_tiff(data: bytes, order: str) -> bytes:
    """Close the gaps that metadata leave in the first directory; all other bytes stay in place."""
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        places = range(start + 2, start + 2 + _ENTRY * count, _ENTRY)
        tags = [struct.unpack_from(f"{order}H", data, place)[0] for place in places]
    except struct.error as error:
        raise ValueError("the directory lies beyond the end of the file") from error
    entries = [
        data[place : place + _ENTRY]
        for place, tag in zip(places, tags, strict=True)
        if tag in _PIXEL_TAGS
    ]
    # No further directory follows: only the first page is read.
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]
