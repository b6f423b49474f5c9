"""The section `augment` of a config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from diffguard.errors import UserError

MethodName = Literal["none", "diffusemix"]


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Mixtures of training images with edits by the diffusion model, see docs/diffusemix.md.

    Attributes:
        method: `diffusemix`, or `none` for no mixtures.
        share: Share of mixtures among the training images of the classifier, in [0, 1].
        fractal_weight: Weight λ of the fractals in the mixtures, in [0, 1].
        seam: Width in pixels of the soft seam between original and edit; 0 cuts.
        fractals: Folder with images to use as fractals; None draws them.
        fractal_count: Number of fractals that are drawn.
        steps: Sampling steps of the whole noise schedule.
        depth: Depth to which an image is inverted, as a share of the steps in (0, 1].
        scale: Scale of classifier-free guidance toward the image's label, at least 0.
        attempts: Edits of an image that are tried, each less deep than the one before.
        classifier: File with weights of a classifier of `classifier.arch`; edits that change its
            prediction are rejected. None accepts them.
        cache: Folder of the edits, which runs may share; defaults to the folder of the run.
        seed: Seed of fractals and mixtures.

    Raises:
        UserError: For a value outside its range.
    """

    method: MethodName = "none"
    share: float = 0.5
    fractal_weight: float = 0.2
    seam: float = 0.0
    fractals: str | None = None
    fractal_count: int = 100
    steps: int = 20
    depth: float = 0.4
    scale: float = 2.0
    attempts: int = 3
    classifier: str | None = None
    cache: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("method", self.method in get_args(MethodName), "none or diffusemix")
        for name in ("share", "fractal_weight"):
            self._require(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("seam", "scale"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "at least 0")
        self._require("depth", 0 < self.depth <= 1, "in (0, 1]")
        for name in ("fractal_count", "steps", "attempts"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("seed", self.seed >= 0, "at least 0")

    def _require(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise UserError(f"augment.{name} must be {expected}, got {getattr(self, name)!r}")
