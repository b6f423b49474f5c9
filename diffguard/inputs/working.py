"""Images in any form, brought to the working size of a detector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffguard.errors import UserError
from diffguard.images import to_working_size
from diffguard.inputs.arrays import array_batch, tensor_batch
from diffguard.inputs.image_files import read_image
from diffguard.inputs.pil_images import decode
from diffguard.storage.paths import user_path

AnImage = Tensor | NDArray[Any] | Image.Image | str | os.PathLike[str]
Images = AnImage | Sequence[AnImage]


def working_images(images: Images, size: int, channels: int) -> Tensor:
    """Bring images to the size and channels of a detector, on the CPU.

    Args:
        images: A tensor `(N, C, H, W)` or `(C, H, W)`; a NumPy array `(N, H, W, C)`, `(H, W, C)` or
            gray `(H, W)`; a PIL image; the path of an image file; or a list of such images, whose
            sizes may differ. Tensors and arrays are uint8, or floating point in [0, 1].
        size: Side of the result in pixels.
        channels: 1 for gray, 3 for RGB.

    Returns:
        `(N, channels, size, size)` float32 in [0, 1].

    Raises:
        UserError: For an image of another form, shape, dtype or range, or an unreadable file.

    Example:
        >>> working_images([torch.zeros(3, 20, 30), np.zeros((9, 9))], size=8, channels=1).shape
        torch.Size([2, 1, 8, 8])
    """
    if not isinstance(images, list | tuple):
        batch = _batch(images)
        result = batch.new_empty(len(batch), channels, size, size)
        for target, image in zip(result, batch, strict=True):
            target.copy_(to_working_size(image, size, channels))
        return result
    result = torch.empty(len(images), channels, size, size)
    for place, image in enumerate(images):
        result[place].copy_(to_working_size(_element(image, place), size, channels))
    return result


def _element(image: AnImage, place: int) -> Tensor:
    """One image of a list, `(C, H, W)`."""
    try:
        batch = _batch(image)
    except UserError as error:
        raise UserError(f"image {place} of the list: {error}") from error
    if len(batch) != 1:
        raise UserError(
            f"image {place} of the list is a batch of {len(batch)} images: join batches with "
            "torch.cat, or extend the list with their images"
        )
    return batch[0]


def _batch(images: Images) -> Tensor:
    """Images in one of the forms as float32 `(N, C, H, W)` in [0, 1] on the CPU."""
    if isinstance(images, Tensor):
        return tensor_batch(images).cpu()
    if isinstance(images, np.ndarray):
        return array_batch(images)
    if isinstance(images, Image.Image):
        return decode(images)[None]
    if isinstance(images, str | os.PathLike):
        return read_image(user_path(os.fspath(images), "image"))[None]
    raise UserError(
        f"images of type {type(images).__name__} are not supported: expected a tensor, a NumPy "
        "array, a PIL image, a path, or a list of these"
    )
