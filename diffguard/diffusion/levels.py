"""The steps of a plan, looked up for rows that each make another one."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Step


class Levels:
    """A plan's grid of levels as tables on a device.

    Steps of a batch are looked up without copies between devices.

    Args:
        plan: Timesteps and levels.
        device: Where the tables are, and where all arguments of `step` must be.
    """

    def __init__(self, plan: SamplingPlan, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        # From the image up, and two levels of pure noise. Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        alphas = torch.cat([plan.alphas_prev[:1], plan.alphas, plan.alphas.new_zeros(2)])
        t = plan.timesteps
        self._alphas = alphas.to(device, dtype)
        self._timesteps = torch.cat([t[:1], t, t[-1:], t[-1:]]).to(device)
        # With pairing "current" the image counts as the level of the first timestep.
        self._lowest = 1 if plan.pairing == "current" else 0

    def step(
        self,
        up: Tensor,
        index: Tensor,
        count: Tensor,
        part: Tensor,
        clip: Tensor | None = None,
    ) -> Step:
        """The steps of rows; see `Step` for the arguments that are not explained here.

        Args:
            up: `(N,)` bool, True for inversion steps.
            index: `(N,)` int64, which inversion or synthesis step of the plan each row makes.
            count: `(N,)` int64.
            part: `(N,)` int64.
            clip: `(N,)` bool or None.
        """
        toward_noise = up.long()
        forward = 2 * toward_noise - 1
        level = index + 1 + toward_noise * (self._lowest - 1)
        top = len(self._alphas) - 1
        # Present, next, before the previous step, above both.
        levels = torch.stack(
            [level, level + forward, level - forward, level + toward_noise + 1]
        ).clamp(0, top)
        alpha, alpha_next, alpha_before, alpha_above = _look_up(self._alphas, levels)
        t, t_next = _look_up(self._timesteps, levels[:2])
        return Step(
            t, t_next, alpha, alpha_next, alpha_before, alpha_above, up, count, part, clip
        )  # fmt: skip


def _look_up(table: Tensor, places: Tensor) -> Tensor:
    return table.index_select(0, places.flatten()).view_as(places)
