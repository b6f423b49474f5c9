"""Images at the public boundary: float32 `(N, C, H, W)` in [0, 1]."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]

# ITU-R BT.601 luma, the weights that Pillow uses for mode "L".
_LUMA = (0.299, 0.587, 0.114)


# Rounding leaves values this far outside [0, 1], in half precision too; an 8-bit level is 0.004.
_ROUNDING = 1e-3


def check_images(images: Tensor) -> Tensor:
    """Check a batch of images and return it as float32.

    Args:
        images: `(N, C, H, W)` with C = 1 or 3, any floating dtype, values in [0, 1]. Values up to
            0.001 outside, as rounding leaves them, are clamped.

    Returns:
        The same images as float32, without a graph.

    Raises:
        UserError: For another type, shape, dtype or value range, or values that are not finite.
    """
    if not isinstance(images, Tensor):
        raise UserError(f"images must be a tensor (N, C, H, W), got {_advice(images)}")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] not in (1, 3):
        advice = ""
        if images.ndim == 3 and shape[0] in (1, 3):
            advice = ": one image needs another dimension, images[None]"
        elif images.ndim == 4 and shape[3] in (1, 3):
            advice = ": move the channels with images.permute(0, 3, 1, 2)"
        raise UserError(
            f"images must be a tensor (N, C, H, W) with C = 1 or 3, got shape {shape}{advice}"
        )
    if 0 in shape[2:]:
        raise UserError(f"images must be at least 1 pixel high and wide, got shape {shape}")
    if not images.is_floating_point():
        raise UserError(
            f"images must be floating point in [0, 1], got {images.dtype}: divide 8-bit by 255, "
            "as in images.float() / 255"
        )
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


def _advice(images: Any) -> str:
    """The type that was given instead of a tensor, and how to convert it."""
    kind = f"{type(images).__module__}.{type(images).__name__}"
    to_tensor = "torchvision.transforms.functional.to_tensor"
    if kind.startswith("PIL."):
        return f"a PIL image: convert it with {to_tensor}(image)[None]"
    if kind == "numpy.ndarray":
        return (
            f"a NumPy array of shape {images.shape}: convert it with torch.from_numpy(images), "
            "values in [0, 1] and channels before height and width"
        )
    if isinstance(images, list | tuple):
        return (
            f"a {type(images).__name__} of {len(images)}: join images of one size with "
            f"torch.stack(images), PIL images after {to_tensor}(image)"
        )
    return f"{kind}: read a file with PIL, and convert it with {to_tensor}(image)[None]"


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


def working_images(images: Tensor, size: int, channels: int) -> Tensor:
    """Check a batch of images and bring each to the size and channels of a detector, on the CPU.

    Args:
        images: `(N, C, H, W)` in [0, 1], C = 1 or 3, any size, on any device.
        size: Side of the result in pixels.
        channels: 1 for gray, 3 for RGB.

    Returns:
        `(N, channels, size, size)` float32 in [0, 1].

    Raises:
        UserError: For images of another type, shape, dtype or range.
    """
    images = check_images(images).cpu()
    result = images.new_empty(len(images), channels, size, size)
    for target, image in zip(result, images, strict=True):
        target.copy_(to_working_size(image, size, channels))
    return result


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
