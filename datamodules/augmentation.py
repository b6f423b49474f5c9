"""Preparation of images to the working size, and augmentation of training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from datamodules.config import Augmentation
from diffguard.errors import UserError
from diffguard.images import to_working_size

CROP_PADDING = 4
REFLECT_PADDING = 2


@dataclass(frozen=True)
class Prepare:
    """Bring a decoded image to the working size.

    Args:
        image_size: Side in pixels; the center square is cropped and resized to it.
        channels: 1 for grayscale, 3 for RGB.
    """

    image_size: int
    channels: int

    def __call__(self, image: Tensor) -> Tensor:
        """Map `(C, H, W)` in [0, 1] to `(channels, image_size, image_size)` in [0, 1]."""
        return to_working_size(image, self.image_size, self.channels)

    def blank(self) -> Tensor:
        """A black image of the working size, in place of an unreadable one."""
        return torch.zeros(self.channels, self.image_size, self.image_size)


def augmentation(name: Augmentation, image_size: int) -> Callable[[Tensor], Tensor]:
    """Random transformation of prepared training images; draws from torch's global generator.

    Args:
        name: `none`; `affine`: slight shift, rotation, scaling and shear on a black background, for
            digits; `flip`: horizontal flip with probability 0.5; `crop_flip`: pad by 4 black
            pixels, crop at random and flip, for CIFAR; `reflect_crop_flip`: pad by 2 reflected
            pixels instead, for short trainings.
        image_size: Side of the images in pixels.

    Raises:
        UserError: If the name is unknown.
    """
    if name == "none":
        return v2.Identity()
    if name == "affine":
        return v2.RandomAffine(
            degrees=8.0,
            translate=(0.05, 0.05),
            scale=(0.92, 1.08),
            shear=4.0,
            interpolation=v2.InterpolationMode.BILINEAR,
        )
    if name == "flip":
        return v2.RandomHorizontalFlip()
    if name in ("crop_flip", "reflect_crop_flip"):
        if name == "crop_flip":
            crop = v2.RandomCrop(image_size, padding=CROP_PADDING)
        else:
            crop = v2.RandomCrop(image_size, padding=REFLECT_PADDING, padding_mode="reflect")
        return v2.Compose([crop, v2.RandomHorizontalFlip()])
    raise UserError(f"augment must be one of {', '.join(get_args(Augmentation))}, got {name!r}")


BatchAugmentation = Callable[[Tensor, torch.Generator], Tensor]


def batch_augmentation(name: Augmentation) -> BatchAugmentation | None:
    """The random transformation of `augmentation` for a whole batch; None for `none`.

    Raises:
        UserError: If it works on single images only.
    """
    if name == "none":
        return None
    if name == "flip":
        return random_flip
    if name == "crop_flip":
        return random_crop_and_flip
    if name == "reflect_crop_flip":
        return partial(random_crop_and_flip, padding=REFLECT_PADDING, mode="reflect")
    raise UserError(
        f"augment {name} works on single images: set data.in_memory to false, or choose another of "
        + ", ".join(get_args(Augmentation))
    )


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images `(N, C, H, W)` horizontally with probability 0.5."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def random_crop_and_flip(
    images: Tensor,
    generator: torch.Generator,
    padding: int = CROP_PADDING,
    mode: Literal["constant", "reflect"] = "constant",
) -> Tensor:
    """Pad images `(N, C, H, W)`, crop them at random to their size and flip half of them.

    Args:
        images: The images.
        generator: Draws crops and flips, on the CPU.
        padding: Pixels added on each side.
        mode: `constant` pads with black, `reflect` with the image's pixels.
    """
    count, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4, mode=mode)
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[
        torch.arange(count, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        rows.to(images.device)[:, None, :, None],
        columns.to(images.device)[:, None, None, :],
    ]
