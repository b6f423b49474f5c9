"""The input and output of the engine: jobs, the recipe and reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.classifier_guidance import ClassifierGuidance

Quality = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Job:
    """An image to reconstruct.

    Attributes:
        image: `(C, H, W)` in [0, 1].
        label: Class to guide toward; -1 for no guidance.
        key: Identifies the image; its random crops depend on the key.
        mask: `(H, W)` bool, where classifier-free guidance applies; None for everywhere.
        tag: Data of the caller, returned with `Reconstruction.job`.
    """

    image: Tensor
    label: int
    key: tuple[str, ...] = ()
    mask: Tensor | None = None
    tag: Any = None


@dataclass
class Reconstruction:
    """The result of a job.

    Attributes:
        job: The job.
        guided: `(C, H, W)` in [0, 1].
        unguided: `(C, H, W)` from the same latent without guidance; None if not requested.
        stop_index: Index of the last inversion step made, 0-based.
        network_passes: Passes of the diffusion model for this image.
        latent: The state at which inversion stopped.
        guided_state: The final state, of which `guided` is the decoded image.
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
class ClassifierFree:
    """Classifier-free guidance (Ho & Salimans, 2022).

    Attributes:
        scale: Guidance scale; 0 is unguided, 1 is the noise with label alone.
    """

    scale: float


@dataclass
class Recipe:
    """How to reconstruct images, resolved from the settings.

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
    """

    plan: SamplingPlan
    max_steps: int
    clip: bool = False
    inversion: str = "null"
    inversion_scale: float = 1.0
    qualities: Sequence[tuple[Quality, float | None]] = ()
    guidance: ClassifierFree | ClassifierGuidance | None = None
    unguided: bool = False
    extra_start: int = 0
    skip: int | None = None

    def guides(self, label: int, mask: Tensor | None) -> bool:
        """Whether guidance changes the synthesis of an image.

        Args:
            label: Class of the image; -1 for none.
            mask: Where guidance applies, at any resolution; None for everywhere.
        """
        if label < 0 or self.guidance is None or self.guidance.scale == 0:
            return False
        return mask is None or bool(mask.any())
