"""The path of a batch through the noise levels; all its rows make the same steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from diffguard.diffusion.levels import Levels
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Shown, Solver

NoiseFunction = Callable[[Tensor, Tensor], Tensor]
GuideFunction = Callable[[Shown, Tensor, int], Tensor]


@dataclass
class Path:
    """States on their way to noise and back.

    Attributes:
        solver: Makes the steps.
        plan: Timesteps and levels.
        x: `(N, …)` present states.
        clip: Clamp the clean estimate to [-1, 1], except at the first inversion step.
        memory: `(solver.memory, N, …)` what the solver keeps; None for an empty memory.
        count: Steps made since the memory was empty.
    """

    solver: Solver
    plan: SamplingPlan
    x: Tensor
    clip: bool = False
    memory: Tensor | None = None
    count: int = 0
    _levels: Levels = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._levels = Levels(self.plan, self.x.device)

    def fork(self) -> Path:
        """A path that continues from here in the other direction, independent of this one."""
        if self.solver.keeps_memory:
            return replace(self)
        return replace(self, memory=None, count=0)

    def invert(self, predict_noise: NoiseFunction, steps: int) -> Iterator[Tensor]:
        """Move toward noise.

        Args:
            predict_noise: `(x (N, …), t (N,) int64) -> ε (N, …)`.
            steps: How many inversion steps to make, at most the plan's length.

        Yields:
            `(N, …)` the states after each step.
        """
        for index in range(steps):
            self._step(predict_noise, index, None, up=True)
            yield self.x

    def synthesize(
        self, predict_noise: NoiseFunction, start: int, guide: GuideFunction | None = None
    ) -> Iterator[Tensor]:
        """Move toward the image.

        Args:
            predict_noise: `(x (N, …), t (N,) int64) -> ε (N, …)`.
            start: First synthesis step; `start + 1` steps are made.
            guide: `(shown, ε, i) -> g (N, …)`, the scaled gradient of a classifier in step i, at
                what the network was shown, see `Solver.advance`.

        Yields:
            `(N, …)` the states after each step.
        """
        for index in range(start, -1, -1):
            self._step(predict_noise, index, guide, up=False)
            yield self.x

    def _step(
        self, predict_noise: NoiseFunction, index: int, guide: GuideFunction | None, *, up: bool
    ) -> None:
        solver, x, memory = self.solver, self.x, self.memory
        if memory is None:
            memory = x.new_zeros(solver.memory, *x.shape)
        rows = torch.ones(len(x), dtype=torch.int64, device=x.device)
        clip = (rows > 0) & (not up or index > 0) if self.clip else None
        for part in range(solver.passes + (solver.warm_up[up] if self.count == 0 else 0)):
            step = self._levels.step(
                (rows > 0) & up, rows * index, rows * self.count, rows * part, clip
            )
            shown = solver.shown(x, memory, step)
            noise = predict_noise(shown.x, shown.t)
            gradient = None if guide is None else guide(shown, noise, index)
            x, memory = solver.advance(x, memory, step, noise, gradient)
        self.x, self.memory, self.count = x, memory, self.count + 1
