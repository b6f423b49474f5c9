"""The recipe: how the engine reconstructs images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.classifier_guidance import ClassifierGuidance

Quality = Callable[[Tensor, Tensor], Tensor]


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
