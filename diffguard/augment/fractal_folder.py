"""A folder of images that are used as fractals."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffguard.errors import UserError
from diffguard.images import to_working_size
from diffguard.inputs.image_files import read_image, why_no_image


def read_fractals(folder: Path, size: int, channels: int) -> Tensor:
    """Read the images of a folder, without those of its sub-folders.

    Args:
        folder: The folder.
        size: Side in pixels to which they are brought.
        channels: 3 for color, 1 for gray.

    Returns:
        `(F, channels, size, size)` in [0, 1], in the order of the names.

    Raises:
        UserError: If there is no image, or one cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"augment.fractals {folder} does not exist: expected a folder of images")
    paths = [path for path in sorted(folder.iterdir()) if not why_no_image(path)]
    if not paths:
        raise UserError(f"augment.fractals {folder} has no images: expected at least one")
    return torch.stack([to_working_size(read_image(path), size, channels) for path in paths])
