"""Edits of images by the diffusion model: same content, other appearance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.program import ClassifierFree, Inversion, Program, Synthesis
from diffguard.engine.sampler import Sampler

# Each attempt inverts to this share of the depth of the one before.
_SHALLOWER = 0.7


class Editor(Protocol):
    """What makes edits."""

    def edit(
        self, images: Tensor, labels: Sequence[int], attempt: int, *, most_steps: int | None = None
    ) -> Tensor:
        """Edit images.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            labels: Their classes.
            attempt: Number of earlier edits of these images that were rejected.
            most_steps: If given, end inversion and synthesis after this many steps, to measure the
                speed.

        Returns:
            `(N, C, H, W)` in [0, 1].
        """
        ...

    def passes(self, most_steps: int | None = None) -> int:
        """Network passes of the first edit of an image; `most_steps` as in `edit`."""
        ...


def seconds_per_edit(editor: Editor, images: Tensor, labels: Sequence[int]) -> float:
    """Estimate the time of the first edit of an image from edits with a single step.

    Args:
        editor: Makes the edits.
        images: `(N, C, H, W)` in [0, 1], at least one.
        labels: Their classes.
    """
    seconds = 0.0
    # The first round prepares the networks and is not counted.
    for _ in range(2):
        start = time.perf_counter()
        editor.edit(images, labels, 0, most_steps=1).cpu()
        seconds = time.perf_counter() - start
    return seconds / len(images) * editor.passes() / editor.passes(most_steps=1)


class InversionEditor:
    """Inverts an image part of the way to noise, and synthesizes toward its own label.

    The inversion keeps the layout of the image, and guidance keeps its class. A later attempt
    inverts less, which changes the image less.

    Args:
        denoiser: The diffusion model, in evaluation mode.
        steps: Sampling steps of the whole noise schedule.
        depth: Depth of the first attempt, as a share of the steps in (0, 1].
        scale: Scale of classifier-free guidance; without effect on a model without classes.
        batch_size: Images of every network call.

    Raises:
        UserError: If the schedule has fewer timesteps than `steps`.
    """

    def __init__(
        self, denoiser: Denoiser, steps: int, depth: float, scale: float, batch_size: int
    ) -> None:
        self.denoiser, self.depth, self.batch_size = denoiser, depth, batch_size
        plan = SamplingPlan.build(denoiser.schedule, steps)
        # Clamped estimates keep strong guidance inside the range of images.
        self._sampler = Sampler(plan, Ddim(plan.pairing), clip=True)
        has_classes = denoiser.num_classes is not None
        self._guidance = ClassifierFree(scale) if has_classes and scale > 0 else None

    def inversion_steps(self, attempt: int = 0) -> int:
        """The inversion steps of an attempt, at least 1."""
        return max(1, round(self.depth * _SHALLOWER**attempt * len(self._sampler.plan)))

    def passes(self, most_steps: int | None = None) -> int:
        """Network passes of the first edit of an image, see `Editor`."""
        per_step = 1 if self._guidance is None or self._guidance.scale == 1 else 2
        steps = self.inversion_steps()
        if most_steps is not None:
            steps = min(steps, most_steps)
        return steps * (1 + per_step)

    @torch.no_grad()
    def edit(
        self, images: Tensor, labels: Sequence[int], attempt: int, *, most_steps: int | None = None
    ) -> Tensor:
        """Edit images, see `Editor`; an edit does not depend on the other images."""
        inversion = Inversion(self.inversion_steps(attempt))
        synthesis = Synthesis(inversion, self._guidance)
        engine = Engine(
            self.denoiser,
            self._sampler,
            Program(pictures=(synthesis,)),
            self.batch_size,
            most_steps=most_steps,
        )
        jobs = [
            Job(image, label, tag=row)
            for row, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
        edits = torch.empty_like(images)
        for outcome in (*engine.push(jobs), *engine.flush()):
            edits[outcome.job.tag] = outcome.pictures[synthesis].to(edits)
        return edits
