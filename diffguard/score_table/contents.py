"""What an image was when it was scored: `contents.npy`, a hash per image of an evaluation.

An image may change before it has a score, as one does that cannot be read and is repaired; after
that the score would belong to another image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.storage.files import replace_file
from diffguard.storage.reading import open_regular

_NAME = "contents.npy"
Numbers = NDArray[np.int64]


def read_contents(folder: Path) -> Numbers | None:
    """The hashes of the images of an evaluation folder, in the order of its table.

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
        # Mapped, not read: a header may claim more numbers than there are.
        mapped = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({error}): restore it or delete it") from error
    if mapped.dtype != np.int64 or mapped.ndim != 1:
        raise UserError(
            f"{path} is damaged: it holds {mapped.dtype} of shape {mapped.shape}, expected one "
            "int64 per image; restore it or delete it"
        )
    return np.array(mapped)


def changed_images(folder: Path, now: Numbers, scored: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the images that have changed since they were scored.

    Args:
        folder: The evaluation folder.
        now: `(N,)` of all images in order.
        scored: `(N,)`, whether an image has its scores.

    Raises:
        UserError: If the folder has scores and does not know of which images.
    """
    stored = read_contents(folder)
    if stored is not None and len(stored) == len(now):
        return np.flatnonzero((stored != now) & scored)
    if scored.any():
        raise UserError(
            f"{Path(folder) / _NAME} is missing or of another number of images, so it is unknown "
            "whether the scored images are still the same: restore it, or name another folder with "
            "--output"
        )
    return np.empty(0, dtype=np.intp)


def keep_contents(folder: Path, now: Numbers) -> None:
    """Keep what the images of an evaluation are; see `changed_images`.

    Raises:
        UserError: If the file cannot be written.
    """
    stored = read_contents(folder)
    if stored is None or not np.array_equal(stored, now):
        with replace_file(Path(folder) / _NAME) as temporary, temporary.open("wb") as file:
            np.save(file, now)
