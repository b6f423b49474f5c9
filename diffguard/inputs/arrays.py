"""Tensors and NumPy arrays as batches of images; a shape with two meanings is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffguard.errors import UserError
from diffguard.images import check_range

_CHANNELS = (1, 3)


def tensor_batch(images: Tensor) -> Tensor:
    """Bring a tensor to a batch.

    Args:
        images: `(N, C, H, W)` or `(C, H, W)` with C = 1 or 3; uint8, or floating point in [0, 1].

    Returns:
        float32 `(N, C, H, W)` in [0, 1] on the same device, N = 1 for a single image.

    Raises:
        UserError: For another shape, dtype or range. `(3, H, 3)` may have its channels first or
            last and is refused.
    """
    shape = tuple(images.shape)
    first = shape[-3] if images.ndim in (3, 4) else None
    last = shape[-1] if images.ndim in (3, 4) else None
    if images.ndim == 3 and first in _CHANNELS and last in _CHANNELS:
        raise UserError(
            f"a tensor of shape {shape} may be (C, H, W) or (H, W, C): write image[None] if the "
            "channels are first, image.permute(2, 0, 1)[None] if they are last"
        )
    if first not in _CHANNELS:
        raise UserError(
            "a tensor must be (N, C, H, W) or (C, H, W) with C = 1 or 3, got shape "
            f"{shape}{_tensor_advice(shape)}"
        )
    return _unit_range(images if images.ndim == 4 else images[None])


def array_batch(images: NDArray[Any]) -> Tensor:
    """Bring a NumPy array to a batch.

    Args:
        images: `(N, H, W, C)` or `(H, W, C)` with C = 1 or 3, or gray `(H, W)`; uint8, or floating
            point in [0, 1].

    Returns:
        float32 `(N, C, H, W)` in [0, 1], N = 1 for a single image.

    Raises:
        UserError: For another shape, dtype or range. `(3, H, 3)` and `(N, 3, H, 3)` may have their
            channels first or last and are refused.
    """
    shape = images.shape
    if images.ndim == 2:
        images = images[:, :, None]
    elif images.ndim not in (3, 4) or shape[-1] not in _CHANNELS:
        raise UserError(
            "a NumPy array must be (N, H, W, C), (H, W, C) or (H, W) with C = 1 or 3, got shape "
            f"{shape}{_array_advice(shape)}"
        )
    elif shape[-3] in _CHANNELS:
        first, last = "", ".permute(0, 3, 1, 2)"
        if images.ndim == 3:
            first, last = "[None]", ".permute(2, 0, 1)[None]"
        raise UserError(
            f"the channels of a NumPy array of shape {shape} may be first or last: write "
            f"torch.from_numpy(x){first} if they are first, torch.from_numpy(x){last} if they are "
            "last"
        )
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise UserError(_unknown_scale(images.dtype))
    # A copy, because torch takes no negative strides and warns about read-only memory.
    batch = torch.from_numpy(np.array(images if images.ndim == 4 else images[None], order="C"))
    return _unit_range(batch.permute(0, 3, 1, 2))


def _tensor_advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return ": write image[None] for a gray image"
    if len(shape) in (3, 4) and shape[-1] in _CHANNELS:
        order = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
        return f": move the channels with x.permute({order})"
    return ""


def _array_advice(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and shape[-1] == 4:
        return ": convert transparency with PIL.Image.fromarray(x), which is blended over white"
    if len(shape) in (3, 4) and shape[-3] in _CHANNELS:
        order = "1, 2, 0" if len(shape) == 3 else "0, 2, 3, 1"
        return f": move the channels with x.transpose({order}), or write torch.from_numpy(x)"
    if len(shape) == 3:
        return ": write x[..., None] for a batch of gray images"
    return ""


def _unit_range(images: Tensor) -> Tensor:
    """uint8 or floating-point images as float32 in [0, 1]."""
    if 0 in images.shape[2:]:
        raise UserError(
            f"images must be at least 1 pixel high and wide, got {images.shape[2]} x "
            f"{images.shape[3]} pixels"
        )
    if images.dtype == torch.uint8:
        return images.float() / 255.0
    if not images.is_floating_point():
        raise UserError(_unknown_scale(images.dtype))
    return check_range(images)


def _unknown_scale(dtype: Any) -> str:
    return (
        f"the scale of {dtype} images is unknown: expected uint8 (0 … 255), or floating point in "
        "[0, 1], such as x / 65535 for unsigned 16 bits"
    )
