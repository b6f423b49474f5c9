"""Settings of the methods that compare an image with what the model makes of its noised copies.

Depths are shares of the schedule's steps in (0, 1]: at 16 steps, a depth of 0.25 is the noise level
from which synthesis takes 4 steps to the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from diffguard.errors import UserError
from diffguard.scores.distance_names import DISTANCES, find_distance
from diffguard.settings.method_section import MethodSettings
from diffguard.settings.values import (
    check_distinct,
    check_least,
    check_scale,
    check_values,
    steps_at,
)


@dataclass(frozen=True)
class DiffNbSettings(MethodSettings):
    """DiffNB, see `diffguard/methods/diffnb.py`.

    Attributes:
        depth: Noise level of the images.
        repeats: Draws of the noise, over which the distance is averaged.
        scale: Scale of the classifier-free guidance toward the predicted label, above 0.
        distance: The distance between an image and its neighbors.

    Raises:
        UserError: For a value out of range, or an unknown distance.
    """

    depth: float = 0.25
    repeats: int = 4
    scale: float = 3.0
    distance: str = "logits_l1"

    def __post_init__(self) -> None:
        name = "detector.diffnb"
        check_values(self, name)
        _check_depth(self.depth, name)
        check_least(f"{name}.repeats", self.repeats, 1)
        check_scale(self.scale, f"{name}.scale")
        if self.scale == 0:
            raise UserError(
                f"{name}.scale must be above 0: the method denoises toward the predicted label"
            )
        find_distance(self.distance)

    @property
    def distance_names(self) -> list[str]:
        """See `MethodSettings`."""
        return [self.distance]

    def light(self) -> Self:
        """See `MethodSettings`."""
        return replace(self, distance="l2")


@dataclass(frozen=True)
class DdpmOodSettings(MethodSettings):
    """DDPM-OOD, see `diffguard/methods/ddpm_ood.py`.

    Attributes:
        levels: Number of noise levels, evenly spaced up to `depth`; each has a reconstruction.
        depth: The highest noise level.
        distances: Distances of images, such as `l2`, `ssim` or `lpips`, that are averaged.
        images: Most ID training images that the distances are normalized on.

    Raises:
        UserError: For a value out of range, or a distance that is unknown, repeated or not of
            images.
    """

    levels: int = 6
    depth: float = 0.75
    distances: list[str] = field(default_factory=lambda: ["l2", "ssim"])
    images: int = 200

    def __post_init__(self) -> None:
        name = "detector.ddpm_ood"
        check_values(self, name)
        check_least(f"{name}.levels", self.levels, 1)
        _check_depth(self.depth, name)
        if not self.distances:
            raise UserError(f"{name}.distances names no distance: name one, such as l2")
        check_distinct(self.distances, f"{name}.distances")
        for distance in self.distances:
            _check_image_distance(distance, f"{name}.distances")
        if self.images < 2:
            raise UserError(
                f"{name}.images must be at least 2, for a standard deviation, got {self.images:,}"
            )

    @property
    def distance_names(self) -> list[str]:
        """See `MethodSettings`."""
        return self.distances

    @property
    def fit_shape(self) -> tuple[int, ...]:
        """The means of all distances; see `MethodSettings`."""
        return self.levels, len(self.distances)

    def light(self) -> Self:
        """See `MethodSettings`."""
        return replace(self, distances=["l2"])

    def check_levels(self, steps: int) -> None:
        """Refuse more levels than the schedule has up to `depth`.

        Args:
            steps: Steps of the whole schedule.

        Raises:
            UserError: Naming the most levels.
        """
        most = steps_at(self.depth, steps)
        if self.levels > most:
            raise UserError(
                f"detector.ddpm_ood.levels must be at most {most:,}, the steps of "
                f"detector.ddpm_ood.depth {self.depth:g} out of {steps:,}, got {self.levels:,}"
            )


@dataclass(frozen=True)
class LmdSettings(MethodSettings):
    """LMD, see `diffguard/methods/lmd.py`.

    Attributes:
        repeats: Inpaintings of each image.
        squares: Squares of the checkerboard along each side, at least 2.
        distance: Distance between images and their inpaintings. `lpips` is the paper's; it needs
            the weights of an ImageNet network.

    Raises:
        UserError: For a value out of range, and for a distance that does not compare images.
    """

    repeats: int = 10
    squares: int = 8
    distance: str = "lpips"

    def __post_init__(self) -> None:
        check_least("detector.lmd.repeats", self.repeats, 1)
        check_least("detector.lmd.squares", self.squares, 2)
        _check_image_distance(self.distance, "detector.lmd.distance")

    @property
    def distance_names(self) -> list[str]:
        """See `MethodSettings`."""
        return [self.distance]

    def light(self) -> Self:
        """See `MethodSettings`."""
        return replace(self, squares=2, distance="l2")


@dataclass(frozen=True)
class MinoritySettings(MethodSettings):
    """The minority score, see `diffguard/methods/minority.py`.

    Attributes:
        depth: Noise level of the images.
        repeats: Draws of the noise, over which the distance is averaged.
        distance: The distance of images, such as `l2` or `lpips`.

    Raises:
        UserError: For a value out of range, or a distance that is unknown or not of images.
    """

    depth: float = 0.6
    repeats: int = 5
    distance: str = "l2"

    def __post_init__(self) -> None:
        name = "detector.minority"
        check_values(self, name)
        _check_depth(self.depth, name)
        check_least(f"{name}.repeats", self.repeats, 1)
        _check_image_distance(self.distance, f"{name}.distance")

    @property
    def distance_names(self) -> list[str]:
        """See `MethodSettings`."""
        return [self.distance]

    def light(self) -> Self:
        """See `MethodSettings`."""
        return replace(self, distance="l2")


def _check_depth(depth: float, name: str) -> None:
    if not 0 < depth <= 1:
        raise UserError(f"{name}.depth must lie in (0, 1], got {depth:g}")


def _check_image_distance(distance: str, name: str) -> None:
    names = [key for key, spec in DISTANCES.items() if spec.needs == "images"]
    if distance not in names:
        raise UserError(f"{name} must be one of {', '.join(names)}, got {distance!r}")
