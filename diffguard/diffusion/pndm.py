r"""PNDM: a linear multistep method on the noise (Liu et al., 2022, arXiv:2202.09778).

A DDIM step whose noise is a combination of those of the last four steps, with the coefficients of
Adams and Bashforth. The first step has no past: it is made once with the noise where it begins, and
again with the mean of that noise and the one where it ended (PLMS with warm-up).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.ddim import estimate, renoise
from diffguard.diffusion.schedule import expand, predict_clean, where_rows
from diffguard.diffusion.solver import Shown, Step

# Weights of the noise now and of the three steps before, by the number of steps made.
_WEIGHTS = torch.tensor(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    dtype=torch.float64,
)


class Pndm:
    """PNDM as a solver. The memory holds the noise of the last three steps, newest first.

    The network sees each state with the timestep of its own level. Within the first step, the
    second tensor of the memory holds the state before the step.
    """

    memory = 3
    passes = 1
    warm_up = (1, 1)
    keeps_memory = False

    def shown(self, x: Tensor, _memory: Tensor, step: Step) -> Shown:
        """The state before the step, then the one after it; see `Solver`."""
        second = step.part == 1
        return Shown(
            x,
            torch.where(second, step.t_next, step.t),
            torch.where(second, step.alpha_next, step.alpha),
        )

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Make the step, or make the first one again; see `Solver`."""
        level = self.shown(x, memory, step).alpha
        _, noise = estimate(x, noise, level, clip=step.clip, gradient=gradient)
        second = step.part == 1
        mixed = where_rows(second, (noise + memory[0]) / 2, _mix(noise, memory, step.count))
        origin = where_rows(second, memory[1], x)
        clean = predict_clean(origin, mixed, step.alpha)
        update = [noise, where_rows(step.count == 0, x, memory[0]), memory[1]]
        past = [where_rows(second, old, new) for old, new in zip(memory, update, strict=True)]
        return renoise(clean, mixed, step.alpha_next), torch.stack(past)


def _mix(noise: Tensor, memory: Tensor, count: Tensor) -> Tensor:
    """The noise of a step after the first."""
    weights = _WEIGHTS.to(noise.device, noise.dtype, non_blocking=True)
    columns = weights.index_select(0, count.clamp(max=len(weights) - 1)).T
    now, *before = (expand(weight, noise) for weight in columns)
    mixed = now * noise
    for weight, past in zip(before, memory, strict=True):
        mixed = mixed + weight * past
    return mixed
