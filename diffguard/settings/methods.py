"""The detection methods that a detector can have beside its baselines, and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffguard.errors import UserError
from diffguard.scores.distances import DISTANCES
from diffguard.settings.guidance import ClassifierFreeSettings, GuidanceSettings
from diffguard.settings.sections import SamplerSettings

METHODS = ("diffguard", "diffpath", "guidance_norm", "lmd", "msma")
# Those that are fitted on ID training images.
FITTED = ("diffpath", "msma")
# Those that pass images to the diffusion model without a label.
UNLABELED = ("lmd", "msma")


@dataclass(frozen=True)
class DiffPathSettings:
    """DiffPath-6D, see `diffguard/methods/diffpath.py`.

    Attributes:
        components: Gaussians of the mixture.
        images: Most ID training images that it is fitted on; each is inverted.

    Raises:
        UserError: For a value out of range.
    """

    components: int = 8
    images: int = 1000

    def __post_init__(self) -> None:
        _check_mixture("detector.diffpath", self.components, self.images)


@dataclass(frozen=True)
class LmdSettings:
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
        _check_least("detector.lmd.repeats", self.repeats, 1)
        _check_least("detector.lmd.squares", self.squares, 2)
        names = [name for name, spec in DISTANCES.items() if spec.needs == "images"]
        if self.distance not in names:
            raise UserError(
                f"detector.lmd.distance must be one of {', '.join(names)}, got {self.distance!r}"
            )


@dataclass(frozen=True)
class MsmaSettings:
    """MSMA, see `diffguard/methods/msma.py`.

    Attributes:
        levels: Noise levels, at most the steps of the sampler.
        components: Gaussians of the mixture.
        images: Most ID training images that it is fitted on.

    Raises:
        UserError: For a value out of range.
    """

    levels: int = 10
    components: int = 5
    images: int = 1000

    def __post_init__(self) -> None:
        _check_least("detector.msma.levels", self.levels, 1)
        _check_mixture("detector.msma", self.components, self.images)


# Method -> the settings of its section.
SECTIONS: dict[str, Any] = {"diffpath": DiffPathSettings, "lmd": LmdSettings, "msma": MsmaSettings}


def check_sections(settings: Any, methods: Sequence[str]) -> None:
    """Refuse settings of methods that are not selected.

    Args:
        settings: The detector's settings, with a section for each of `SECTIONS`.
        methods: The selected methods.

    Raises:
        UserError: Naming the section.
    """
    for name, kind in SECTIONS.items():
        if name not in methods and getattr(settings, name) != kind():
            raise UserError(
                f"detector.{name} has no effect here: leave it out, or add {name} to "
                "detector.methods"
            )


def _check_mixture(name: str, components: int, images: int) -> None:
    _check_least(f"{name}.components", components, 1)
    if images < 2 * components:
        raise UserError(
            f"{name}.images must be at least twice {name}.components, {2 * components:,}, got "
            f"{images:,}"
        )


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value:,}")


def check_methods(
    methods: Sequence[str], guidance: GuidanceSettings, sampler: SamplerSettings
) -> None:
    """Refuse methods that are unknown or do not fit the guidance or the solver.

    Raises:
        UserError: Naming the method.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(
                f"detector.methods names {name!r}, expected some of {', '.join(METHODS)}"
            )
    if "diffguard" not in methods:
        raise UserError("detector.methods must name diffguard, which the others are added to")
    if "lmd" in methods and sampler.is_exact:
        raise UserError(
            f"detector.methods lmd replaces pixels between steps, which the solver "
            f"{sampler.solver} does not allow: set detector.sampler.solver to another one, such as "
            "ddim"
        )
    if "guidance_norm" in methods:
        free = isinstance(guidance, ClassifierFreeSettings)
        if not free or guidance.scale in (0, 1):
            raise UserError(
                "detector.methods guidance_norm needs passes both without and with the label: set "
                "detector.guidance to classifier_free and its scale to another value than 0 and 1, "
                "or leave it out"
            )
