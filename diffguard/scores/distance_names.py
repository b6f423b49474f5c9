"""The distances by name, with what they compare; their formulas are in `scores.distances`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffguard.errors import UserError

SSIM_SMALLEST = 3
"""Smallest side for `ssim` and `ssim_reflect`: the side of the smallest window."""

MS_SSIM_SMALLEST = 176
"""Smallest side for `ms_ssim`: torchmetrics requires side // 16 > 10, so that its window fits."""

Needs = Literal["images", "logits", "features", "layer"]


@dataclass(frozen=True)
class DistanceSpec:
    """An entry of `DISTANCES`.

    Attributes:
        needs: The field of `Views` that is compared ("features" becomes "layer" with `@layer`).
        perfect: Quality of equal images, so that `perfect - distance` is the usual quality.
        smallest: Side in pixels of the smallest images that are compared.
        perceptual: Whether an ImageNet network is needed, see `build_distance`.
    """

    needs: Needs
    perfect: float = 0.0
    smallest: int = 1
    perceptual: bool = False


DISTANCES: dict[str, DistanceSpec] = {
    "l1": DistanceSpec("images"),
    "l2": DistanceSpec("images"),
    "psnr": DistanceSpec("images"),
    "ssim": DistanceSpec("images", perfect=1.0, smallest=SSIM_SMALLEST),
    "ssim_reflect": DistanceSpec("images", perfect=1.0, smallest=SSIM_SMALLEST),
    "ms_ssim": DistanceSpec("images", perfect=1.0, smallest=MS_SSIM_SMALLEST),
    "gmsd": DistanceSpec("images"),
    "dists_statistics": DistanceSpec("images", perfect=1.0),
    "dists": DistanceSpec("images", perfect=1.0, perceptual=True),
    "lpips": DistanceSpec("images", perceptual=True),
    "lpips_alex": DistanceSpec("images", perceptual=True),
    "logits_l1": DistanceSpec("logits"),
    "feature_l2": DistanceSpec("features"),
    "feature_cosine": DistanceSpec("features", perfect=1.0),
}


def find_distance(name: str) -> tuple[DistanceSpec, str | None]:
    """Look up a distance by its name, without building anything.

    Returns:
        The entry of `DISTANCES`, and the layer in the name, if there is one.

    Raises:
        UserError: For an unknown name.

    Example:
        >>> spec, layer = find_distance("feature_cosine@layer2.1")
        >>> spec.needs, layer
        ('features', 'layer2.1')
        >>> find_distance("l3")
        Traceback (most recent call last):
        diffguard.errors.UserError: unknown distance 'l3': choose from ...
    """
    base, at, layer = name.partition("@")
    spec = DISTANCES.get(base)
    if spec is None:
        raise UserError(f"unknown distance {base!r}: choose from {', '.join(DISTANCES)}")
    if at and (spec.needs != "features" or not layer):
        raise UserError(
            f"distance {name!r}: only feature_l2 and feature_cosine take a layer, "
            f"as in feature_cosine@layer2.1"
        )
    return spec, layer or None


def check_size(name: str, image_size: int) -> None:
    """Refuse a distance that needs larger images.

    Raises:
        UserError: Naming the smallest size.
    """
    smallest = find_distance(name)[0].smallest
    if image_size < smallest:
        raise UserError(
            f"{name} needs images of at least {smallest} px, and here they have {image_size}: take "
            "another distance, such as ssim"
        )
