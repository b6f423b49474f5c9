"""The interface of a solver, and the step that it makes.

A solver moves states between noise levels along the probability-flow ODE. Toward noise it inverts
an image, toward the image it synthesizes. Each row of a batch makes a step of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

SolverName = Literal["ddim", "pndm", "dpm_solver_pp", "edict", "bdia", "time_shift"]
# Solvers whose synthesis undoes the inversion, if both see the same condition.
EXACT: tuple[SolverName, ...] = ("edict", "bdia")


@dataclass(frozen=True)
class Step:
    """One step of each of N rows.

    Levels are neighbors on the plan's grid. `Levels.step` looks them up.

    Attributes:
        t: `(N,)` int64 timestep of the present level; of the lowest timestep for a clean state.
        t_next: `(N,)` int64 timestep of the level after the step.
        alpha: `(N,)` float64 ᾱ of the present level, in (0, 1].
        alpha_next: `(N,)` ᾱ after the step, in [0, 1].
        alpha_before: `(N,)` ᾱ before the previous step of the same direction.
        alpha_above: `(N,)` ᾱ one level above both `alpha` and `alpha_next`; 0 above the top.
        up: `(N,)` bool, whether the step goes toward noise.
        count: `(N,)` int64, steps that the row has made since its memory was empty.
        part: `(N,)` int64, network passes that the row has made in this step.
        clip: `(N,)` bool, rows whose clean estimate is clamped to [-1, 1]; None clamps none.
    """

    t: Tensor
    t_next: Tensor
    alpha: Tensor
    alpha_next: Tensor
    alpha_before: Tensor
    alpha_above: Tensor
    up: Tensor
    count: Tensor
    part: Tensor
    clip: Tensor | None = None

    @property
    def t_higher(self) -> Tensor:
        """`(N,)` the noisier of the two timesteps."""
        return torch.maximum(self.t, self.t_next)


class Shown(NamedTuple):
    """What the network is shown in a pass.

    Attributes:
        x: `(N, …)` states.
        t: `(N,)` int64 timesteps.
        alpha: `(N,)` levels that the states count as, for the clean estimate and guidance.
    """

    x: Tensor
    t: Tensor
    alpha: Tensor


class Solver(Protocol):
    """Moves states between noise levels.

    A step takes one network pass or several. For each, `shown` gives the network's input, and
    `advance` takes the noise that the network predicted there. After the last pass, `advance`
    returns the states after the step.

    Attributes:
        memory: Tensors that a row keeps besides its state, each of the shape of the state.
        passes: Network passes of a step.
        warm_up: Additional passes of a step with an empty memory, toward the image and toward
            noise.
        keeps_memory: Whether a row that turns from inversion to synthesis keeps memory and count.
            Otherwise it starts again with an empty memory, filled with zeros, and count 0.
    """

    memory: int
    passes: int
    warm_up: tuple[int, int]
    keeps_memory: bool

    def shown(self, x: Tensor, memory: Tensor, step: Step, /) -> Shown:
        """The input of the network.

        Args:
            x: `(N, …)` states.
            memory: `(memory, N, …)`.
            step: The steps, with the passes made.
        """
        ...

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None, /
    ) -> tuple[Tensor, Tensor]:
        """Use one pass.

        Args:
            x: `(N, …)` states.
            memory: `(memory, N, …)`.
            step: The steps, with the passes made before this one.
            noise: `(N, …)` ε at what was shown, after classifier-free guidance.
            gradient: `(N, …)` g, the scaled gradient of a classifier at what was shown. It turns
                the noise into ε - √(1-ᾱ) g (Dhariwal & Nichol, 2021, alg. 2).

        Returns:
            States `(N, …)` and memory `(memory, N, …)`.
        """
        ...
