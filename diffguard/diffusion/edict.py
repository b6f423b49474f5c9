r"""EDICT: exact inversion by two coupled states (Wallace et al., 2023, arXiv:2211.12446).

A DDIM step between two levels is $x' = a x + b\,\epsilon$. Toward the image, the pair $(x, y)$
makes it in turn, each with the noise predicted at the other, and is then mixed:

$$ \tilde x = a x + b\,\epsilon(y) , \quad \tilde y = a y + b\,\epsilon(\tilde x) , \quad
x' = p\,\tilde x + (1-p)\,\tilde y , \quad y' = p\,\tilde y + (1-p)\,x' . $$

Toward noise, the same operations are undone in reverse order, so that a round trip returns the
image up to rounding. The two states change roles from step to step, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.ddim import ddim_step, estimate
from diffguard.diffusion.schedule import where_rows
from diffguard.diffusion.solver import Shown, Step

# The mixing weight p of the paper.
_MIX = 0.93


class Edict:
    """EDICT as a solver. The memory holds y.

    The network sees the noisier timestep of a step in both directions, and clean estimates are
    clamped in all steps, because the inverse must repeat the same passes.
    """

    memory = 1
    passes = 2
    warm_up = (0, 0)
    keeps_memory = True

    def shown(self, x: Tensor, memory: Tensor, step: Step) -> Shown:
        """The state that does not move in this pass; see `Solver`."""
        x, y = _pair(x, memory, step)
        still = where_rows(_moves_x(step), y, x)
        return Shown(still, step.t_higher, torch.minimum(step.alpha, step.alpha_next))

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Move one of the states; see `Solver`."""
        shown = self.shown(x, memory, step)
        clip = None if step.clip is None else torch.ones_like(step.clip)
        _, noise = estimate(shown.x, noise, shown.alpha, clip=clip, gradient=gradient)
        x, y = _pair(x, memory, step)
        moves_x = _moves_x(step)
        next_state = ddim_step(where_rows(moves_x, x, y), noise, step.alpha, step.alpha_next)
        x, y = where_rows(moves_x, next_state, x), where_rows(moves_x, y, next_state)
        mixes = ~step.up & (step.part == 1)
        mixed_x = _MIX * x + (1 - _MIX) * y
        mixed_y = _MIX * y + (1 - _MIX) * mixed_x
        x, y = where_rows(mixes, mixed_x, x), where_rows(mixes, mixed_y, y)
        x, y = _exchanged(x, y, step)
        return x, y.unsqueeze(0)


def _pair(x: Tensor, memory: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The states x and y before a pass, with the mixing undone before an inversion step."""
    empty = (step.count == 0) & (step.part == 0)
    x, y = _exchanged(x, where_rows(empty, x, memory[0]), step)
    unmixes = step.up & (step.part == 0)
    free_y = (y - (1 - _MIX) * x) / _MIX
    free_x = (x - (1 - _MIX) * free_y) / _MIX
    return where_rows(unmixes, free_x, x), where_rows(unmixes, free_y, y)


def _exchanged(x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The states in the roles that they have in this step."""
    # Counted on through the turn, a step and its inverse have counts of different parity.
    exchanged = (step.count % 2 == 1) == step.up
    return where_rows(exchanged, y, x), where_rows(exchanged, x, y)


def _moves_x(step: Step) -> Tensor:
    """`(N,)` bool, whether the pass moves x."""
    return (step.part == 0) != step.up
