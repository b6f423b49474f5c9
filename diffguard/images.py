"""Images as tensors: range, size and channels."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]

# ITU-R BT.601 luma, the weights that Pillow uses for mode "L".
_LUMA = (0.299, 0.587, 0.114)


# Rounding leaves values this far outside [0, 1], in half precision too; an 8-bit level is 0.004.
_ROUNDING = 1e-3


def check_range(images: Tensor) -> Tensor:
    """Check the values of images and return them as float32.

    Args:
        images: Any shape and floating dtype, values in [0, 1]. Values up to 0.001 outside, as
            rounding leaves them, are clamped.

    Returns:
        The same images as float32, without a graph.

    Raises:
        UserError: For values out of range or not finite.
    """
    images = images.detach().float()
    if not images.numel():
        return images
    low, high = (float(value) for value in images.aminmax())
    # NaN fails both comparisons, so it is caught here too.
    if not (low >= -_ROUNDING and high <= 1.0 + _ROUNDING):
        raise UserError(
            f"images must lie in [0, 1], got values in [{low:.6g}, {high:.6g}]: divide 8-bit "
            "values by 255, or undo a normalization"
        )
    return images.clamp(0.0, 1.0) if low < 0.0 or high > 1.0 else images


def convert_channels(images: Tensor, channels: int) -> Tensor:
    """Convert between gray and color.

    Args:
        images: `(..., C, H, W)` with C = 1 or 3.
        channels: 1 for gray (BT.601 luma) or 3 for RGB.

    Returns:
        `(..., channels, H, W)`, values in the range of the input.
    """
    if images.shape[-3] == channels:
        return images
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    weights = images.new_tensor(_LUMA).view(3, 1, 1)
    return (images * weights).sum(-3, keepdim=True)


def to_working_size(image: Tensor, size: int, channels: int) -> Tensor:
    """Bring one image to the size and channels that a detector works with.

    Images from files and from Python are converted one by one, so that the pixels of an image do
    not depend on the other images of a batch.

    Args:
        image: `(C, H, W)` in [0, 1], C = 1 or 3.
        size: Side of the result in pixels.
        channels: 1 for gray, 3 for RGB.

    Returns:
        `(channels, size, size)` in [0, 1], contiguous.
    """
    return convert_channels(resize_and_crop(image.contiguous(), size), channels).contiguous()


def pixel_key(image: Tensor) -> str:
    """A hash of an image's pixels, which seeds the randomness that belongs to the image.

    Args:
        image: `(C, H, W)` as the networks see it, on any device.

    Returns:
        32 hexadecimal digits that depend on the pixels alone, not on the image's name or place.
    """
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()


def resize_and_crop(image: Tensor, size: int) -> Tensor:
    """Crop the center square and resize it to `size` (antialiased bilinear).

    Args:
        image: `(..., C, H, W)` in [0, 1].
        size: Side of the result in pixels.

    Returns:
        `(..., C, size, size)` in [0, 1].
    """
    height, width = image.shape[-2:]
    shorter = min(height, width)
    if (height, width) == (size, size):
        return image
    # Cropping first avoids enlarging a long strip as a whole.
    top, left = (height - shorter + 1) // 2, (width - shorter + 1) // 2
    square = image[..., top : top + shorter, left : left + shorter]
    return resize_to(square, (size, size)).clamp(0.0, 1.0)


def to_model_range(images: Tensor) -> Tensor:
    """Map images from [0, 1] to the [-1, 1] of diffusion models."""
    return images * 2.0 - 1.0


def to_image_range(x: Tensor) -> Tensor:
    """Map a diffusion model's [-1, 1] to images in [0, 1]; values outside are clamped."""
    return ((x + 1.0) / 2.0).clamp(0.0, 1.0)


def resize_to(
    images: Tensor,
    size: tuple[int, int],
    *,
    antialias: bool = True,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Resize to exactly `size = (H, W)`; the same size is a no-op."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    batch = images if images.ndim == 4 else images.unsqueeze(0)
    resized = F.interpolate(
        batch, size=size, mode=interpolation, align_corners=False, antialias=antialias
    )
    return resized.reshape(*images.shape[:-2], *size)


def resize_mask(mask: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bring a `(N, h, w)` mask in {0, 1} to `(N, *size)` bool by nearest neighbor."""
    resized = F.interpolate(mask.unsqueeze(1).float(), size=tuple(size), mode="nearest")
    return resized.squeeze(1) > 0.5
