"""Preprocessing that libraries publish: size, crop, interpolation and normalization.

It comes from tables that ship with the libraries; nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffguard.classifiers.library import timm_config, torchvision_weights
from diffguard.images import Interpolation

_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
# OpenOOD's, by number of classes.
_CIFAR = {
    10: ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    100: ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for a network.

    Attributes:
        size: `(height, width)` that the network takes; None leaves images as they are.
        resize: Side to which images are resized before `size` is cut out of their center; None
            resizes to `size` without a crop.
        interpolation: How they are resized.
        mean: Mean per channel.
        std: Standard deviation per channel.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def published_preprocessing(
    arch: str, kwargs: Mapping[str, Any], num_classes: int, channels: int
) -> Preprocessing:
    """The preprocessing that an architecture was published with.

    Args:
        arch: `torchvision/NAME`, `timm/NAME`, `openood/NAME`, or another without published values.
        kwargs: Arguments of its constructor; an image size among them overrides the table.
        num_classes: Number K of classes.
        channels: Channels that the network takes.

    Raises:
        UserError: For a name that the library does not know.
    """
    library, _, name = arch.partition("/")
    if library == "torchvision":
        return _of_torchvision(name, kwargs)
    if library == "timm":
        return _of_timm(name, kwargs, channels)
    if library == "openood":
        return _of_openood(name, num_classes)
    return Preprocessing()


def assumptions(
    arch: str, num_classes: int, channels: int, mean: Sequence[float] | None
) -> str | None:
    """A line that reports an assumption made because nothing is published; None if there is none.

    Args:
        arch: As `published_preprocessing`.
        num_classes: Number K of classes.
        channels: Channels that the network takes.
        mean: The user's mean; None uses the published one.

    Raises:
        UserError: For a name that the library does not know.
    """
    library, _, name = arch.partition("/")
    unknown = library not in ("torchvision", "timm", "openood", "small_cnn", "whitened_cnn")
    unknown |= library == "timm" and timm_config(name) is None
    unknown |= name == "ResNet18_32x32" and num_classes not in _CIFAR
    if mean is not None:
        return None
    if unknown:
        return (
            f"no normalization is published for {arch} with {num_classes} classes: it is given "
            "images in [0, 1]; set classifier.mean and classifier.std if it was trained otherwise"
        )
    if library == "timm" and channels != 3:
        return (
            f"the published normalization of {arch} is for 3 channels: with {channels}, mean and "
            "std are 0.5; set classifier.mean and classifier.std if it was trained otherwise"
        )
    return None


def _of_torchvision(name: str, kwargs: Mapping[str, Any]) -> Preprocessing:
    published = torchvision_weights(name).transforms()
    size, full = published.crop_size[0], published.resize_size[0]
    side = kwargs.get("image_size", size)
    return Preprocessing(
        (side, side),
        round(full * side / size),
        published.interpolation.value,
        tuple(published.mean),
        tuple(published.std),
    )


def _of_timm(name: str, kwargs: Mapping[str, Any], channels: int) -> Preprocessing:
    import timm

    published = timm_config(name)
    if published is None:
        return Preprocessing()
    config = timm.data.resolve_data_config(pretrained_cfg=published.to_dict())
    height, width = config["input_size"][1:]
    if side := kwargs.get("img_size"):
        height, width = (side, side) if isinstance(side, int) else side
    square = height == width
    plain = channels != 3
    return Preprocessing(
        (height, width),
        # timm's own rounding; the few models of other shapes see the whole image.
        math.floor(height / config["crop_pct"]) if square else None,
        "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        (0.5,) if plain else tuple(config["mean"]),
        (0.5,) if plain else tuple(config["std"]),
    )


def _of_openood(name: str, num_classes: int) -> Preprocessing:
    if name == "ResNet50":
        return Preprocessing((224, 224), 256, "bilinear", *map(tuple, _IMAGENET))
    mean, std = _CIFAR.get(num_classes, ([0.0], [1.0]))
    return Preprocessing((32, 32), None, "bilinear", tuple(mean), tuple(std))
