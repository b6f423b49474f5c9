"""The timesteps of a sampler, chosen from a schedule, and the noise levels they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffguard.diffusion.schedule import (
    EXTRA_START,
    FIRST_LEVEL,
    PAIRING,
    SPACING,
    FirstLevel,
    NoiseSchedule,
    Pairing,
    Spacing,
)
from diffguard.errors import UserError


def respace(total: int, steps: int, spacing: Spacing) -> Tensor:
    """Choose the timesteps of a DDIM run.

    Args:
        total: Timesteps T of the training schedule.
        steps: Number of steps.
        spacing: `even`: exactly `steps` timesteps from 0 to T-1, rounded. `stride`
            (guided-diffusion's `ddimN`): 0, i, 2i, … with the smallest i that gives `steps`.
            `shifted` (latent diffusion): 1, 1+c, 1+2c, … with c = T // steps; the count can
            differ from `steps`. `trailing` (diffusers): T-1, T-1-c, … with c = T / steps,
            rounded; with few steps, none is spent near the image.

    Returns:
        `(S,)` int64 increasing timesteps.

    Raises:
        UserError: If no such timesteps exist.

    Example:
        >>> respace(1000, 4, "even")
        tensor([  0, 333, 666, 999])
    """
    if not 1 <= steps <= total:
        raise UserError(f"steps must be 1 to {total:,}, got {steps:,}")
    if spacing == "even":
        return torch.linspace(0, total - 1, steps, dtype=torch.float64).round().long()
    if spacing == "stride":
        for stride in range(1, total + 1):
            if math.ceil(total / stride) == steps:
                return torch.arange(0, total, stride)
        raise UserError(
            f"no integer stride gives {steps} of {total} timesteps: "
            "take another number of steps, or spacing even"
        )
    if spacing == "shifted":
        timesteps = torch.arange(0, total, total // steps) + 1
        return timesteps[timesteps < total]
    if spacing == "trailing":
        below_top = torch.arange(steps, dtype=torch.float64) * total / steps
        return ((total - below_top).round().long() - 1).flip(0)
    raise UserError(f"spacing {spacing!r} is not known, expected even, stride, shifted or trailing")


@dataclass(frozen=True)
class SamplingPlan:
    """Respaced timesteps with the noise levels on both sides of each step.

    Two published conventions pair timesteps with levels in *inversion* (synthesis is the same):

    - `pairing="current"` (the pixel model of DiffGuard): step i goes from level ᾱ_i to ᾱ_{i+1} and
      the network sees timestep i, that of the state it is given; the clean image counts as level
      ᾱ_0, and a step beyond the last level ends on 0 (pure noise).
    - `pairing="target"` (the latent model): step i goes from ᾱ_{i-1} to ᾱ_i and the network sees
      timestep i, that of the state being made; the clean image counts as `first_level`.

    Attributes:
        timesteps: `(S,)` int64, original timesteps.
        alphas: `(S,)` float64, ᾱ at the timesteps.
        alphas_prev: `(S,)` the level below; starts with 1 (`first_level="clean"`) or with ᾱ of
            timestep 0 (`"first"`).
        alphas_next: `(S,)` the level above; ends with 0.
        pairing: Which convention inversion follows.

    Example:
        >>> plan = SamplingPlan.build(NoiseSchedule.linear(), steps=4)
        >>> plan.timesteps
        tensor([  0, 333, 666, 999])
    """

    timesteps: Tensor
    alphas: Tensor
    alphas_prev: Tensor
    alphas_next: Tensor
    pairing: Pairing

    @classmethod
    def build(
        cls,
        schedule: NoiseSchedule,
        steps: int,
        spacing: Spacing = SPACING,
        pairing: Pairing = PAIRING,
        first_level: FirstLevel = FIRST_LEVEL,
    ) -> SamplingPlan:
        """Respace a schedule; see `respace` and the class for the options."""
        timesteps = respace(len(schedule), steps, spacing)
        alphas = schedule.alphas_cumprod[timesteps]
        lowest = schedule.alphas_cumprod[:1] if first_level == "first" else alphas.new_ones(1)
        return cls(
            timesteps=timesteps,
            alphas=alphas,
            alphas_prev=torch.cat([lowest, alphas[:-1]]),
            alphas_next=torch.cat([alphas[1:], alphas.new_zeros(1)]),
            pairing=pairing,
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def betas(self) -> Tensor:
        """`(S,)` betas of the respaced process, 1 - ᾱ_i / ᾱ_{i-1}."""
        return 1.0 - self.alphas / self.alphas_prev

    def inversion(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timestep, level before and level after inversion step `index`, each `(N,)`."""
        if self.pairing == "current":
            return self.timesteps[index], self.alphas[index], self.alphas_next[index]
        return self.timesteps[index], self.alphas_prev[index], self.alphas[index]

    def synthesis(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timestep, level before and level after synthesis step `index`, each `(N,)`."""
        return self.timesteps[index], self.alphas[index], self.alphas_prev[index]

    def start_index(
        self, stop_index: Tensor, extra: int = EXTRA_START, skip: int | None = None
    ) -> Tensor:
        """The synthesis step that begins where inversion stopped.

        Args:
            stop_index: `(N,)` int64, index of the last inversion step made.
            extra: Steps further up than the level that inversion reached. The authors' program
                starts one step too high (its `forback_skip_diff = F` is `extra = F - 2`, and F
                is 3); 0 is sound.
            skip: If given, all samples start this many steps below the top.

        Returns:
            `(N,)` int64, at most S-1.
        """
        if skip is not None:
            return torch.full_like(stop_index, len(self) - 1 - skip)
        level = stop_index + (1 if self.pairing == "current" else 0)
        return (level + extra).clamp(max=len(self) - 1)
