"""The section `augment` of a config."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from diffguard.errors import UserError
from diffguard.settings.values import refuse_unused

MethodName = Literal["none", "diffusemix"]


# The prompts of DiffuseMix (Islam et al., 2024).
PROMPTS = (
    "autumn",
    "snowy",
    "watercolor art",
    "sunset",
    "rainbow",
    "aurora",
    "mosaic",
    "ukiyo-e",
    "a sketch with crayon",
)


@dataclass(frozen=True)
class InstructSettings:
    """The section `augment.instruct`.

    Attributes:
        weights: Folder or hub id of an InstructPix2Pix pipeline of diffusers; None edits with the
            run's own diffusion model.
        prompts: The prompts; one is drawn for each edit.
        steps: Sampling steps.
        scale: Guidance scale toward the prompt.
        image_scale: Guidance scale toward the image, at least 1.
        side: Side in pixels to which images are enlarged for the edit, a multiple of 8.

    Raises:
        UserError: For a value outside its range.
    """

    weights: str | None = None
    prompts: list[str] = field(default_factory=lambda: list(PROMPTS))
    steps: int = 20
    scale: float = 4.0
    image_scale: float = 1.5
    side: int = 256

    def __post_init__(self) -> None:
        self._require("prompts", len(self.prompts) > 0, "at least one prompt")
        self._require("steps", self.steps >= 1, "at least 1")
        for name in ("scale", "image_scale"):
            self._require(name, 1 <= getattr(self, name) < math.inf, "at least 1")
        self._require("side", self.side >= 8 and self.side % 8 == 0, "a multiple of 8")

    def _require(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            value = getattr(self, name)
            raise UserError(f"augment.instruct.{name} must be {expected}, got {value!r}")


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
        instruct: Edits by InstructPix2Pix instead of the run's own diffusion model.
        steps: Sampling steps of the whole noise schedule.
        depth: Depth to which an image is inverted, as a share of the steps in (0, 1].
        scale: Scale of classifier-free guidance toward the image's label, at least 0.
        attempts: Edits of an image that are tried. Those of the own model invert less deep each
            time, those of InstructPix2Pix draw another prompt and noise.
        classifier: File with weights of a classifier of `classifier.arch`; edits that change its
            prediction are rejected. None accepts them.
        cache: Folder of the edits, which runs may share; defaults to the folder of the run.
        seed: Seed of fractals, of mixtures, and of edits by InstructPix2Pix; None takes that of the
            run (`--seed`), or 0 without a run.

    Raises:
        UserError: For a value outside its range.
    """

    method: MethodName = "none"
    share: float = 0.5
    fractal_weight: float = 0.2
    seam: float = 0.0
    fractals: str | None = None
    fractal_count: int = 100
    instruct: InstructSettings = field(default_factory=InstructSettings)
    steps: int = 10
    depth: float = 0.7
    scale: float = 7.0
    attempts: int = 3
    classifier: str | None = None
    cache: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        self._require("method", self.method in get_args(MethodName), "none or diffusemix")
        for name in ("share", "fractal_weight"):
            self._require(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("seam", "scale"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "at least 0")
        self._require("depth", 0 < self.depth <= 1, "in (0, 1]")
        for name in ("fractal_count", "steps", "attempts"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("seed", self.seed is None or self.seed >= 0, "at least 0")
        owner = "augment.instruct.weights"
        if self.instruct.weights is not None:
            unused = dict.fromkeys(("steps", "depth", "scale"), f"edits without {owner}")
            refuse_unused(self, "augment", unused)
        else:
            names = (field.name for field in fields(self.instruct) if field.name != "weights")
            refuse_unused(self.instruct, "augment.instruct", dict.fromkeys(names, owner))

    def _require(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise UserError(f"augment.{name} must be {expected}, got {getattr(self, name)!r}")
