"""DiffGuard's program: invert the image, then synthesize with and without guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Solver
from diffguard.engine.early_stop import EarlyStop, Quality
from diffguard.engine.jobs import Job
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import ClassifierFree, Guidance, Inversion, Program, Synthesis
from diffguard.engine.sampler import Sampler


@dataclass
class Reconstruction:
    """The reconstructions of an image.

    Attributes:
        job: The job.
        guided: `(C, H, W)` in [0, 1].
        unguided: `(C, H, W)` from the same latent without guidance; None if not requested.
        stop_index: Index of the last inversion step made, 0-based.
        network_passes: Passes of the diffusion model for this image.
        latent: The state at which inversion stopped.
        guided_state: The final state, whose decoded image is `guided`.
        unguided_state: The final state of `unguided`.
    """

    job: Job
    guided: Tensor
    unguided: Tensor | None
    stop_index: int
    network_passes: int
    latent: Tensor
    guided_state: Tensor
    unguided_state: Tensor | None


@dataclass
class Recipe:
    """How DiffGuard reconstructs images, resolved from the settings.

    Attributes:
        plan: Timesteps and levels.
        max_steps: Maximum number of inversion steps, 1 … len(plan).
        clip: Clamp the clean estimate to [-1, 1].
        inversion: Condition of the inversion: `null`, `label` or `guided`.
        inversion_scale: Guidance scale of a guided inversion.
        qualities: Early stop: pairs of a quality `(N,C,h,w) × 2 -> (N,)` and its threshold.
        guidance: How synthesis is guided toward the label; None leaves it unguided.
        unguided: Also make the unguided reconstruction.
        extra_start: Synthesis starts this many steps above the level reached.
        skip: Fixed start of synthesis, steps below the top; None starts where inversion stopped.
        solver: Makes the steps; None for DDIM.
    """

    plan: SamplingPlan
    max_steps: int
    clip: bool = False
    inversion: str = "null"
    inversion_scale: float = 1.0
    qualities: Sequence[tuple[Quality, float | None]] = ()
    guidance: Guidance = None
    unguided: bool = False
    extra_start: int = Synthesis.extra_start
    skip: int | None = None
    solver: Solver | None = None

    @property
    def sampler(self) -> Sampler:
        """How states move between noise levels."""
        return Sampler(self.plan, self.solver or Ddim(self.plan.pairing), self.clip)

    @cached_property
    def invert(self) -> Inversion:
        """The inversion of an image."""
        scale = {"null": 0.0, "label": 1.0, "guided": self.inversion_scale}[self.inversion]
        guidance = ClassifierFree(scale, masked=False) if scale else None
        stop = (EarlyStop(tuple(self.qualities)),) if self.qualities else ()
        return Inversion(self.max_steps, guidance, stop)

    def synthesize(self, guidance: Guidance) -> Synthesis:
        """The synthesis of an image with some guidance."""
        return Synthesis(self.invert, guidance, extra_start=self.extra_start, skip=self.skip)

    @property
    def draws_crops(self) -> bool:
        """Whether guidance draws crops for each image."""
        if self.guidance is None or isinstance(self.guidance, ClassifierFree):
            return False
        return self.guidance.draws_crops

    def program(self) -> Program:
        """What the engine computes for each image."""
        guidances = (self.guidance, None) if self.unguided else (self.guidance,)
        pictures = tuple(self.synthesize(guidance) for guidance in guidances)
        return Program(states=(self.invert, *pictures), pictures=pictures)

    def reconstruction(self, outcome: Outcome) -> Reconstruction:
        """The reconstructions in an outcome of the program."""
        inversion, guided = self.invert, self.synthesize(self.guidance)
        unguided = self.synthesize(None)
        return Reconstruction(
            job=outcome.job,
            guided=outcome.pictures[guided],
            unguided=outcome.pictures[unguided] if self.unguided else None,
            stop_index=outcome.last_step[inversion],
            network_passes=outcome.passes,
            latent=outcome.states[inversion],
            guided_state=outcome.states[guided],
            unguided_state=outcome.states[unguided] if self.unguided else None,
        )

    def guides(self, label: int, mask: Tensor | None) -> bool:
        """Whether guidance changes the synthesis of an image.

        Args:
            label: Class of the image; -1 for none.
            mask: Where guidance applies, at any resolution; None for everywhere.
        """
        if label < 0 or self.guidance is None or self.guidance.scale == 0:
            return False
        return mask is None or bool(mask.any())
