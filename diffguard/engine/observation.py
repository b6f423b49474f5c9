"""Calls of the observers, always with whole batches, and their records by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.solver import Step
from diffguard.engine.observer import PassSight, Sight
from diffguard.engine.routes import Node, Routes
from diffguard.engine.trajectories import ImageInFlight, Trajectories


class Observation:
    """Shows the passes and steps of trajectories to their observers.

    Args:
        routes: The phases and their observers.
        trajectories: The table.
        denoiser: The diffusion model.
        batch_size: Rows of every call of an observer.
        step_of: Rows of the table -> their steps.
    """

    def __init__(
        self,
        routes: Routes,
        trajectories: Trajectories,
        denoiser: Denoiser,
        batch_size: int,
        step_of: Callable[[np.ndarray], Step],
    ) -> None:
        self.routes, self.trajectories = routes, trajectories
        self.denoiser, self.batch_size, self.step_of = denoiser, batch_size, step_of
        observers = routes.observers
        self._of_passes = [number for number, o in enumerate(observers) if o.sees_passes]
        self._of_steps = [number for number, o in enumerate(observers) if o.sees_steps]

    @cached_property
    def _values(self) -> list[Tensor]:
        x, observers = self.trajectories.x, self.routes.observers
        return [x.new_zeros(len(x), o.values, dtype=torch.float64) for o in observers]

    @cached_property
    def _memory(self) -> list[Tensor]:
        x = self.trajectories.x
        return [x.new_zeros(o.memory, *x.shape) for o in self.routes.observers]

    def begin(self, row: int, node: Node) -> None:
        """Begin the records of a phase."""
        for observer in node.observers:
            if observer.values:
                self._values[self.routes.observers.index(observer)][row] = 0.0

    def end(self, row: int, node: Node, image: ImageInFlight) -> None:
        """Hand the records of a phase to its image."""
        for observer in node.observers:
            if observer.values:
                number = self.routes.observers.index(observer)
                image.values[node, observer] = self._values[number][row].clone()

    def show_passes(self, rows: np.ndarray, x: Tensor, noise: Tensor) -> None:
        """Show the passes of a step.

        Args:
            rows: Rows of the table.
            x: `(N, …)` states that the network was shown.
            noise: `(N, …)` noise that makes the step.
        """
        table, routes = self.trajectories, self.routes
        for number in self._of_passes:
            for places, count in self._batches(number, rows):
                subset, on_device = rows[places], table.on_device(places)
                nodes = table.node[subset]
                sight = PassSight(
                    **vars(self._sight(number, subset, x.index_select(0, on_device))),
                    noise=noise.index_select(0, on_device),
                    noise_null=table.null_noise(subset),
                    noise_label=table.label_noise(subset),
                    has_both=table.on_device(routes.null[nodes] & routes.label[nodes]),
                )
                routes.observers[number].on_pass(sight)
                self._keep(number, subset[:count], sight)

    def show_steps(self, rows: np.ndarray) -> np.ndarray:
        """Show the states after a step.

        Args:
            rows: Rows of the table.

        Returns:
            `(N,)` bool, which rows end their phase here.
        """
        table = self.trajectories
        stops = np.zeros(len(rows), dtype=bool)
        for number in self._of_steps:
            for places, count in self._batches(number, rows):
                subset = rows[places]
                x, _ = table.states(subset)
                sight = self._sight(number, subset, x)
                flags = self.routes.observers[number].on_step(sight)
                if flags is not None:
                    stops[places[:count]] |= np.array(flags.tolist()[:count])
                if sight.x is not x:
                    table.move(subset[:count], sight.x[:count])
                self._keep(number, subset[:count], sight)
        return stops

    def _batches(self, number: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Places in `rows` of an observer's rows, padded to whole batches, and their number."""
        places = np.flatnonzero(self.routes.observes[number, self.trajectories.node[rows]])
        for begin in range(0, len(places), self.batch_size):
            part = places[begin : begin + self.batch_size]
            padding = np.repeat(part[:1], self.batch_size - len(part))
            yield np.concatenate([part, padding]), len(part)

    def _sight(self, number: int, rows: np.ndarray, x: Tensor) -> Sight:
        table = self.trajectories
        places = table.on_device(rows)
        return Sight(
            x=x,
            find_step=partial(self.step_of, rows),
            index=table.on_device(table.step[rows]),
            steps=table.step[rows].tolist(),
            sources=[image.source for image in table.images(rows)],
            denoiser=self.denoiser,
            values=self._values[number].index_select(0, places),
            memory=self._memory[number].index_select(1, places),
        )

    def _keep(self, number: int, rows: np.ndarray, sight: Sight) -> None:
        observer, places = self.routes.observers[number], self.trajectories.on_device(rows)
        if observer.values:
            self._values[number].index_copy_(0, places, sight.values[: len(rows)])
        if observer.memory:
            self._memory[number].index_copy_(1, places, sight.memory[:, : len(rows)])
