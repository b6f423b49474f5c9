"""The ImageNet networks of the perceptual distances, by their names in torchvision."""

from __future__ import annotations

from typing import Literal

Net = Literal["vgg16", "alexnet"]

TAPS: dict[Net, tuple[int, ...]] = {"vgg16": (3, 8, 15, 22, 29), "alexnet": (1, 4, 7, 9, 11)}
"""Indices in torchvision's `features` of the ReLUs that end the five stages."""

# The smallest image that still has a pixel after all poolings.
SMALLEST = {"vgg16": 16, "alexnet": 31}
