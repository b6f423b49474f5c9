"""How the engine moves states: timesteps, solver and clamping."""

from __future__ import annotations

from dataclasses import dataclass

from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Solver


@dataclass
class Sampler:
    """How states move between noise levels; the same in all phases.

    Attributes:
        plan: Timesteps and levels.
        solver: Makes the steps.
        clip: Clamp the clean estimate to [-1, 1], except at the first step of an inversion, whose
            state is the image.
    """

    plan: SamplingPlan
    solver: Solver
    clip: bool = False
