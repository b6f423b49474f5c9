r"""BDIA: exact inversion by integrating in both directions (Zhang et al., 2024, arXiv:2307.10829).

The noise predicted at a state $x_i$ gives DDIM steps from there in both directions,
$\Delta^-_i$ toward the image and $\Delta^+_i$ toward noise. With $\gamma = 1$ of the paper,

$$ x_{i-1} = x_{i+1} + \Delta^-_i(x_i) - \Delta^+_i(x_i) , $$

which is solved for $x_{i+1}$ as easily as for $x_{i-1}$: a round trip returns the image up to
rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.ddim import estimate, renoise
from diffguard.diffusion.schedule import where_rows
from diffguard.diffusion.solver import Shown, Step


class Bdia:
    """BDIA as a solver. The memory holds the state one level above.

    An inversion starts with a DDIM step, and computes the state one level above in the same step,
    which takes a second pass. All later steps, in both directions, take one pass, and a row can
    turn after any of them. A synthesis that starts from noise begins with a DDIM step.

    The network sees the same states with the same timesteps in both directions. Clean estimates are
    clamped in all steps but the first of an inversion.
    """

    memory = 1
    passes = 1
    warm_up = (0, 1)
    keeps_memory = True

    def shown(self, x: Tensor, memory: Tensor, step: Step) -> Shown:
        """The upper one of the states that a step connects, if it exists; see `Solver`."""
        above = step.up & ~_opens(step)
        return Shown(
            where_rows(above, memory[0], x),
            step.t_higher,
            torch.where(above, step.alpha_next, step.alpha),
        )

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Make the step, or the DDIM step before it; see `Solver`."""
        node, opens = self.shown(x, memory, step), _opens(step)
        clip = None if step.clip is None else step.clip | ~opens
        clean, noise = estimate(node.x, noise, node.alpha, clip=clip, gradient=gradient)
        level = torch.where(step.up & ~opens, step.alpha_above, step.alpha_next)
        ahead = renoise(clean, noise, level)
        behind = renoise(clean, noise, torch.where(step.up, step.alpha, step.alpha_above))
        # The state on the other side of the node; there is none yet in a DDIM step.
        other = where_rows(step.up, x, memory[0])
        empty = opens | ((step.count == 0) & ~step.up)
        new = where_rows(empty, ahead, other + ahead - behind)
        below, above = where_rows(step.up, node.x, new), where_rows(step.up, new, node.x)
        return below, above.unsqueeze(0)


def _opens(step: Step) -> Tensor:
    """`(N,)` bool, whether the pass is the first one of an inversion."""
    return step.up & (step.count == 0) & (step.part == 0)
