"""Sections of a detector's settings: sampler, inversion, early stop and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from diffguard.diffusion.schedule import (
    EXTRA_START,
    FIRST_LEVEL,
    PAIRING,
    SPACING,
    FirstLevel,
    Pairing,
    Spacing,
)
from diffguard.diffusion.solver import EXACT, SolverName
from diffguard.errors import UserError
from diffguard.scores.distance_names import find_distance
from diffguard.settings.values import check_scale, check_values, refuse_unused, steps_at

Condition = Literal["null", "label", "guided"]
Masking = Literal["none", "black", "layers"]


@dataclass(frozen=True)
class TimeShiftSettings:
    """The choice of timesteps of the solver `time_shift`.

    Attributes:
        window: Width of the window around the timestep of a state, at least 2.
        cutoff: Only states above this timestep choose, at least 0.

    Raises:
        UserError: For a value out of range.
    """

    window: int = 20
    cutoff: int = 200

    def __post_init__(self) -> None:
        name = "detector.sampler.time_shift"
        if self.window < 2:
            raise UserError(f"{name}.window must be at least 2 timesteps, got {self.window:,}")
        if self.cutoff < 0:
            raise UserError(f"{name}.cutoff must be at least 0, got {self.cutoff:,}")


@dataclass(frozen=True)
class SamplerSettings:
    """How states move between noise levels, in inversion and in synthesis.

    Attributes:
        solver: The method, see docs/solvers.md.
        steps: Steps of the whole schedule.
        spacing: How timesteps are chosen, see `diffguard.diffusion.plan.respace`.
        pairing: Which noise level a timestep belongs to in inversion, see
            `diffguard.diffusion.plan.SamplingPlan`.
        first_level: The level of a clean image: `clean` (ᾱ = 1) or `first` (ᾱ of timestep 0).
        clip: Clamp the clean estimate to [-1, 1] (pixel models), except at the first inversion
            step.
        time_shift: Options of the solver `time_shift`.

    Raises:
        UserError: For a value out of range or without effect, and for a solver that does not fit
            the pairing.
    """

    solver: SolverName = "ddim"
    steps: int = 16
    spacing: Spacing = SPACING
    pairing: Pairing = PAIRING
    first_level: FirstLevel = FIRST_LEVEL
    clip: bool = False
    time_shift: TimeShiftSettings = field(default_factory=TimeShiftSettings)

    def __post_init__(self) -> None:
        check_values(self, "detector.sampler")
        if self.steps < 1:
            raise UserError(f"detector.sampler.steps must be at least 1, got {self.steps:,}")
        if self.is_exact and self.pairing != "target":
            raise UserError(
                f"detector.sampler.solver {self.solver} needs detector.sampler.pairing target, "
                "which gives inversion and synthesis the same levels"
            )
        if self.solver != "time_shift":
            owner = "detector.sampler.solver time_shift"
            unused = dict.fromkeys(("window", "cutoff"), owner)
            refuse_unused(self.time_shift, "detector.sampler.time_shift", unused)

    @property
    def is_exact(self) -> bool:
        """Whether synthesis is the exact inverse of inversion."""
        return self.solver in EXACT


@dataclass(frozen=True)
class InversionSettings:
    """How the image is encoded.

    Attributes:
        depth: Maximum depth of the inversion, as a share of the schedule's steps in (0, 1].
        condition: What the model sees: no label (`null`), the label of the synthesis (`label`), or
            both, mixed by classifier-free guidance (`guided`).
        scale: Guidance scale of `guided`, at least 0.

    Raises:
        UserError: For a value out of range, or a scale without effect.
    """

    depth: float = 0.75
    condition: Condition = "null"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_values(self, "detector.inversion")
        if not 0 < self.depth <= 1:
            raise UserError(f"detector.inversion.depth must lie in (0, 1], got {self.depth:g}")
        check_scale(self.scale, "detector.inversion.scale")
        if self.condition != "guided":
            owner = "detector.inversion.condition guided"
            refuse_unused(self, "detector.inversion", {"scale": owner})

    def most_steps(self, steps: int) -> int:
        """The largest number of inversion steps of an image, out of `steps` of the schedule."""
        return steps_at(self.depth, steps)


@dataclass(frozen=True)
class EarlyStopSettings:
    """Adaptive early stop.

    Attributes:
        thresholds: Quality -> threshold; inversion of an image stops when any is below. `psnr` in
            dB; `ssim`, `dists` and cosines with 1 for equal images; other distances with a minus
            sign. None switches a quality off, so that it is not measured. If empty, all images
            invert to `inversion.depth`.
        mean_depth: If given, calibration sets the thresholds so that ID validation images stop,
            on average, at this share of the schedule.

    Raises:
        UserError: For an unknown quality, or a mean depth without qualities.
    """

    thresholds: dict[str, float | None] = field(default_factory=dict)
    mean_depth: float | None = None

    def __post_init__(self) -> None:
        check_values(self, "detector.early_stop")
        for name in self.thresholds:
            find_distance(name)
        if self.mean_depth is not None and not self.thresholds:
            raise UserError(
                "detector.early_stop.mean_depth needs a quality to stop by: name one in "
                "detector.early_stop.thresholds, such as {psnr: null}"
            )


@dataclass(frozen=True)
class SynthesisSettings:
    """Where synthesis starts.

    Attributes:
        extra_start: Synthesis starts this many steps above the level that inversion reached, at
            most at the top.
        skip: If given, synthesis of all images starts this many steps below the top.

    Raises:
        UserError: For a negative `extra_start`, or one without effect.
    """

    extra_start: int = EXTRA_START
    skip: int | None = None

    def __post_init__(self) -> None:
        if self.extra_start < 0:
            raise UserError(
                f"detector.synthesis.extra_start must be at least 0, got {self.extra_start:,}"
            )
        if self.skip is not None:
            owner = "a start that follows the inversion, without detector.synthesis.skip"
            refuse_unused(self, "detector.synthesis", {"extra_start": owner})


@dataclass(frozen=True)
class ComparisonSettings:
    """How the classifier's outputs for images and their reconstructions are compared.

    Both can be restricted to the object, so that changes of the background do not count. The
    object is where the Grad-CAM of the image's predicted class is large.

    Attributes:
        masking: How the rest is hidden from the classifier: not at all (`none`), painted `black`,
            or hidden in all `layers` of a CNN, see `diffguard/classifiers/layer_masking.py`.
        cam_cut: See what is above this cut of the scaled Grad-CAM (below its absolute value, if
            negative), in [-1, 1].

    Raises:
        UserError: For a value out of range or without effect.
    """

    masking: Masking = "none"
    cam_cut: float = 0.2

    def __post_init__(self) -> None:
        name = "detector.comparison"
        check_values(self, name)
        if not -1 <= self.cam_cut <= 1:
            raise UserError(f"{name}.cam_cut must lie in [-1, 1], got {self.cam_cut:g}")
        if self.masking == "none":
            refuse_unused(self, name, {"cam_cut": f"{name}.masking black or layers"})


def check_masking(comparison: ComparisonSettings, distances: Sequence[str]) -> None:
    """Refuse masking if no distance reads the classifier.

    Raises:
        UserError: Naming the setting.
    """
    reads = any(find_distance(name)[0].needs != "images" for name in distances)
    if comparison.masking != "none" and not reads:
        raise UserError(
            f"detector.comparison.masking {comparison.masking} has no effect here: it belongs to "
            "distances of the classifier, such as logits_l1; leave it out, or add one to "
            "detector.distances"
        )


def check_start(sampler: SamplerSettings, synthesis: SynthesisSettings) -> None:
    """Refuse another start of synthesis with a solver that inverts exactly.

    Raises:
        UserError: Naming the settings.
    """
    if sampler.is_exact and (synthesis.extra_start or synthesis.skip is not None):
        raise UserError(
            f"detector.sampler.solver {sampler.solver} returns from the level that inversion "
            "reached: leave out detector.synthesis.extra_start and skip, or take another solver"
        )
