"""A hash of each image of an evaluation, by which a changed image is recognized: `contents.npy`.

An image may change until it is scored, for example if an unreadable file is repaired. Later, its
score would belong to another image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.storage.files import replace_file
from diffguard.storage.reading import open_regular

_NAME = "contents.npy"
_MOST_IMAGES = 100_000_000
Numbers = NDArray[np.int64]


def read_contents(folder: Path) -> Numbers | None:
    """Read the hashes of the images of an evaluation folder, in the order of its table.

    Args:
        folder: The evaluation folder.

    Returns:
        `(N,)` int64, or None if the folder has none.

    Raises:
        UserError: If the file is damaged.
    """
    path = Path(folder) / _NAME
    try:
        open_regular(path).close()
        # A memory map needs no memory for numbers that the header only claims.
        mapped = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({error}): restore it or delete it") from error
    if mapped.dtype != np.int64 or mapped.ndim != 1 or mapped.size > _MOST_IMAGES:
        raise UserError(
            f"{path} is damaged: it holds {mapped.dtype} of shape {mapped.shape}, expected one "
            "int64 per image; restore it or delete it"
        )
    return np.array(mapped)


def changed_images(folder: Path, now: Numbers, score_mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the images that have changed since they were scored.

    Args:
        folder: The evaluation folder.
        now: `(N,)` the present hashes of all images, in order.
        score_mask: `(N,)` whether an image is scored.

    Raises:
        UserError: If images are scored but their hashes are missing.
    """
    before = read_contents(folder)
    if before is not None and len(before) == len(now):
        return np.flatnonzero((before != now) & score_mask)
    if score_mask.any():
        raise UserError(
            f"{Path(folder) / _NAME} is missing or has another number of images, so it is unknown "
            "whether the scored images are still the same: restore it, or choose another output "
            "folder"
        )
    return np.empty(0, dtype=np.intp)


def write_contents(folder: Path, now: Numbers) -> None:
    """Write the hashes of the images of an evaluation; see `changed_images`.

    Args:
        folder: The evaluation folder.
        now: `(N,)` the present hashes of all images, in order.

    Raises:
        UserError: If the file cannot be written.
    """
    before = read_contents(folder)
    if before is None or not np.array_equal(before, now):
        with replace_file(Path(folder) / _NAME) as temporary, temporary.open("wb") as file:
            np.save(file, now)
