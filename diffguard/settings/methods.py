"""The detection methods that a detector can have beside its baselines, and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffguard.errors import UserError
from diffguard.settings.guidance import ClassifierFreeSettings, GuidanceSettings
from diffguard.settings.values import check_values

METHODS = ("diffguard", "diffpath", "guidance_norm")
# Those that are fitted on ID training images.
FITTED = ("diffpath",)


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
        check_values(self, "detector.diffpath")
        if self.components < 1:
            raise UserError(
                f"detector.diffpath.components must be at least 1, got {self.components:,}"
            )
        if self.images < 2 * self.components:
            raise UserError(
                "detector.diffpath.images must be at least twice detector.diffpath.components, "
                f"{2 * self.components:,}, got {self.images:,}"
            )


def check_methods(methods: Sequence[str], guidance: GuidanceSettings) -> None:
    """Refuse methods that are unknown or do not fit the guidance.

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
    if "guidance_norm" in methods:
        free = isinstance(guidance, ClassifierFreeSettings)
        if not free or guidance.scale in (0, 1):
            raise UserError(
                "detector.methods guidance_norm needs passes both without and with the label: set "
                "detector.guidance to classifier_free and its scale to another value than 0 and 1, "
                "or leave it out"
            )
