"""The steps of a plan, looked up for rows that each make another one."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Step


class Levels:
    """The timesteps and levels of all steps of a plan, as a table on a device.

    Steps of a batch are looked up without copies between devices.

    Args:
        plan: Timesteps and levels.
        device: Where the table is, and where all arguments of `step` must be.
    """

    def __init__(self, plan: SamplingPlan, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self._steps = len(plan)
        # Columns are the synthesis steps, then the inversion steps. Apple's GPUs have no float64.
        columns = torch.cat([_columns(plan, up=False), _columns(plan, up=True)], dim=1)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._timesteps = columns[:2].long().to(device)
        self._alphas = columns[2:].to(device, dtype)

    def step(
        self, up: Tensor, index: Tensor, count: Tensor, part: Tensor, clip: Tensor | None = None
    ) -> Step:
        """The steps of rows; see `Step` for `count`, `part` and `clip`.

        Args:
            up: `(N,)` bool, True for inversion steps.
            index: `(N,)` int64, which inversion or synthesis step of the plan each row makes.
            count: `(N,)` int64.
            part: `(N,)` int64.
            clip: `(N,)` bool or None.
        """
        return self.at(index + self._steps * up, up, count, part, clip)

    def at(
        self, places: Tensor, up: Tensor, count: Tensor, part: Tensor, clip: Tensor | None
    ) -> Step:
        """The steps of rows, by their places `(N,)` in the table; see `step`.

        Synthesis step i is at place i, inversion step i at place S + i, with S steps in the plan.
        """
        t, t_next = self._timesteps.index_select(1, places).unbind()
        alpha, alpha_next, alpha_before, alpha_above = self._alphas.index_select(1, places).unbind()
        return Step(t, t_next, alpha, alpha_next, alpha_before, alpha_above, up, count, part, clip)


def _columns(plan: SamplingPlan, *, up: bool) -> Tensor:
    """The six entries of each step in one direction, `(6, S)` float64."""
    # All levels from the image up; above the top there is pure noise.
    t, noise = plan.timesteps, plan.alphas.new_zeros(2)
    timesteps = torch.cat([t[:1], t, t[-1:], t[-1:]]).double()
    alphas = torch.cat([plan.alphas_prev[:1], plan.alphas, noise])
    present = torch.arange(len(plan))
    # With pairing "current" the image counts as the level of the first timestep.
    present = present if up and plan.pairing == "target" else present + 1
    following, before = (present + 1, present - 1) if up else (present - 1, present + 1)
    above = (torch.maximum(present, following) + 1).clamp(max=len(alphas) - 1)
    levels = torch.stack([present, following, before.clamp(min=0), above])
    return torch.cat([timesteps[levels[:2]], alphas[levels]])
