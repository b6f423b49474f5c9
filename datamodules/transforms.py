"""From an image file to a tensor of the working size, and the augmentations of training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from diffguard.errors import UserError
from diffguard.images import to_working_size

# A closed list: Pillow also knows formats that start other programs (EPS runs Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Augmentation = Literal["none", "affine", "flip", "crop_flip"]
CROP_PADDING = 4


def read_image(path: str | Path) -> Tensor:
    """Read an image file.

    EXIF orientation is turned, transparency laid over white, palettes resolved, CMYK and the like
    converted to RGB. Grey images of 16 bits and floats keep their precision.

    Args:
        path: A BMP, GIF, JPEG, JPEG 2000, PNG, PPM/PGM, TIFF or WebP file.

    Returns:
        float32 `(C, H, W)` in [0, 1] with C = 1 for grey and 3 for colour.

    Raises:
        UserError: If the file is absent, no such image, truncated or broken, larger than Pillow's
            limit against decompression bombs, or of an unknown grey scale.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                return _to_tensor(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} is refused: {error}") from error
    except Exception as error:
        # Pillow's parsers raise what a broken file makes them stumble on: SyntaxError, KeyError, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"image {path} cannot be read: {reason}") from error


def _to_tensor(image: Image.Image) -> Tensor:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _scaled_grey(image, 65535.0)  # Pillow reads 16-bit PNG and PGM as either mode
    if image.mode == "F":
        return _scaled_grey(image, 1.0)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        pixels = _pixels(image.convert("LA" if grey else "RGBA"))
        colour, alpha = pixels[:-1], pixels[-1:]
        return colour * alpha + (1.0 - alpha)
    return _pixels(image.convert("L" if grey else "RGB"))


def _pixels(image: Image.Image) -> Tensor:
    """8-bit image -> float32 `(C, H, W)` in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / 255.0
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _scaled_grey(image: Image.Image, white: float) -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / white
    if not bool(((pixels >= 0.0) & (pixels <= 1.0)).all()):
        raise UserError(
            f"grey values of mode {image.mode} must lie in [0, {white:g}], got "
            f"[{float(pixels.min()) * white:g}, {float(pixels.max()) * white:g}]: "
            "convert it to 8 or 16 bits"
        )
    return pixels[None]


@dataclass(frozen=True)
class Prepare:
    """Bring a decoded image to the working size.

    Args:
        image_size: Side in pixels: the centre square is cut out and resized to it.
        channels: 1 for grey, 3 for RGB.
    """

    image_size: int
    channels: int

    def __call__(self, image: Tensor) -> Tensor:
        """Map `(C, H, W)` in [0, 1] to `(channels, image_size, image_size)` in [0, 1]."""
        return to_working_size(image, self.image_size, self.channels)

    def blank(self) -> Tensor:
        """A black image of the working size, in the place of one that cannot be read."""
        return torch.zeros(self.channels, self.image_size, self.image_size)


def augmentation(name: Augmentation, image_size: int) -> Callable[[Tensor], Tensor]:
    """Random transformation of prepared training images; it draws from torch's generator.

    Args:
        name: `none`; `affine`: slight shift, rotation, scale and slant over a black ground, for
            digits; `flip`: flip half of the images from left to right; `crop_flip`: pad by 4, crop
            at random and flip, for CIFAR.
        image_size: Side of the images in pixels.

    Raises:
        UserError: For another name.
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
    if name == "crop_flip":
        crop = v2.RandomCrop(image_size, padding=CROP_PADDING)
        return v2.Compose([crop, v2.RandomHorizontalFlip()])
    raise UserError(f"augment must be one of {', '.join(get_args(Augmentation))}, got {name!r}")
