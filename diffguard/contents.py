"""What an image was when it was scored: `contents.npy`, a number per image of an evaluation.

An image may change before it has a score, as one does that cannot be read and is repaired; after
that the score would belong to another image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.files import replace_file

_NAME = "contents.npy"
Numbers = NDArray[np.int64]


def read_contents(folder: Path) -> Numbers | None:
    """The numbers of the images of an evaluation folder, in the order of its table.

    Args:
        folder: The evaluation folder.

    Returns:
        `(N,)` int64, or None if the folder has none.

    Raises:
        UserError: If the file is damaged.
    """
    path = Path(folder) / _NAME
    try:
        found: Numbers = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it or delete it") from error
    return found


def changed_images(folder: Path, now: Numbers, scored: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the images that have changed since they were scored.

    Args:
        folder: The evaluation folder.
        now: `(N,)` of all images in order.
        scored: `(N,)`, whether an image has its scores.
    """
    stored = read_contents(folder)
    if stored is None or len(stored) != len(now):
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero((stored != now) & scored)


def keep_contents(folder: Path, now: Numbers) -> None:
    """Keep what the images of an evaluation are; see `changed_images`.

    Raises:
        UserError: If the file cannot be written.
    """
    stored = read_contents(folder)
    if stored is None or not np.array_equal(stored, now):
        with replace_file(Path(folder) / _NAME) as temporary, temporary.open("wb") as file:
            np.save(file, now)
