"""Outcomes: what the engine returns for each job."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffguard.engine.jobs import Job
from diffguard.engine.observer import Observer
from diffguard.engine.program import Phase


@dataclass
class Outcome:
    """What became of a job; the keys are the phases of the program.

    Attributes:
        job: The job.
        passes_for: Network passes of the diffusion model for this image, by the phases that they
            serve.
        gradients_for: Gradients of a classifier that guides, by the phases that they serve.
        last_step: Index of the last step that each phase made, 0-based.
        states: `(…)` last state of each phase in `Program.states`.
        pictures: `(C, H, W)` in [0, 1] of each phase in `Program.pictures`.
        values: `(values,)` float64 of each observer of a phase.
    """

    job: Job
    passes_for: dict[frozenset[Phase], int]
    gradients_for: dict[frozenset[Phase], int]
    last_step: dict[Phase, int]
    states: dict[Phase, Tensor]
    pictures: dict[Phase, Tensor]
    values: dict[tuple[Phase, Observer], Tensor]

    @property
    def passes(self) -> int:
        """Network passes of the diffusion model for this image."""
        return sum(self.passes_for.values())
