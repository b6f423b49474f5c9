"""Calls of the observers, always with whole batches, and their records by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from diffguard.diffusion.solver import Step
from diffguard.engine.observer import Observer, PassSight, Sight
from diffguard.engine.trajectories import ImageInFlight, Trajectories


class Observation:
    """Shows the passes and steps of trajectories to their observers.

    Args:
        observers: All observers.
        observes: `(observers, K)` bool, the phases that each of them watches.
        has_both: `(K,)` bool, the phases that make passes both without and with the label.
        trajectories: The table.
        preview: Shows states as images, see `Denoiser.preview`.
        batch_size: Rows of every call of an observer.
        step_of: Rows of the table -> their steps.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        observes: np.ndarray,
        has_both: np.ndarray,
        trajectories: Trajectories,
        preview: Callable[[Tensor], Tensor],
        batch_size: int,
        step_of: Callable[[np.ndarray], Step],
    ) -> None:
        self.observers, self.observes, self.has_both = observers, observes, has_both
        self.trajectories, self.preview = trajectories, preview
        self.batch_size, self.step_of = batch_size, step_of
        self._of_passes = [number for number, o in enumerate(observers) if o.sees_passes]
        self._of_steps = [number for number, o in enumerate(observers) if o.sees_steps]
        # Those of each phase that return numbers.
        self._counting = [
            [number for number in np.flatnonzero(column).tolist() if observers[number].values]
            for column in observes.T
        ]

    @cached_property
    def _values(self) -> list[Tensor]:
        x = self.trajectories.x
        return [x.new_zeros(len(x), o.values, dtype=torch.float64) for o in self.observers]

    @cached_property
    def _memory(self) -> list[Tensor]:
        x = self.trajectories.x
        return [x.new_zeros(o.memory, *x.shape) for o in self.observers]

    def begin(self, row: int) -> None:
        """Begin the records of the phase that a row is in."""
        for number in self._counting[self.trajectories.node[row]]:
            self._values[number][row] = 0.0

    def end(self, row: int, image: ImageInFlight) -> None:
        """Hand the records of the phase that a row is in to its image."""
        node = int(self.trajectories.node[row])
        for number in self._counting[node]:
            image.values[node, self.observers[number]] = self._values[number][row].clone()

    def show_passes(self, rows: np.ndarray, x: Tensor, noise: Tensor) -> None:
        """Show the passes of a step.

        Args:
            rows: Rows of the table.
            x: `(N, …)` states that the network was shown.
            noise: `(N, …)` noise that makes the step.
        """
        table = self.trajectories
        for number in self._of_passes:
            for places, count in self._batches(number, rows):
                subset, on_device = rows[places], table.on_device(places)
                sight = PassSight(
                    **vars(self._sight(number, subset, x.index_select(0, on_device))),
                    noise=noise.index_select(0, on_device),
                    noise_null=table.null_noise(subset),
                    noise_label=table.label_noise(subset),
                    has_both=table.on_device(self.has_both[table.node[subset]]),
                )
                self.observers[number].on_pass(sight)
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
                flags = self.observers[number].on_step(sight)
                if flags is not None:
                    stops[places[:count]] |= np.array(flags.tolist()[:count])
                if sight.x is not x:
                    table.move(subset[:count], sight.x[:count])
                self._keep(number, subset[:count], sight)
        return stops

    def _batches(self, number: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Places in `rows` of an observer's rows, padded to whole batches, and their number."""
        places = np.flatnonzero(self.observes[number, self.trajectories.node[rows]])
        for begin in range(0, len(places), self.batch_size):
            part = places[begin : begin + self.batch_size]
            padding = np.repeat(part[:1], self.batch_size - len(part))
            yield np.concatenate([part, padding]), len(part)

    def _sight(self, number: int, rows: np.ndarray, x: Tensor) -> Sight:
        table, observer = self.trajectories, self.observers[number]
        values, memory = self._values[number], self._memory[number]
        if observer.values or observer.memory:
            places = table.on_device(rows)
            values, memory = values.index_select(0, places), memory.index_select(1, places)
        return Sight(
            x=x,
            find_step=partial(self.step_of, rows),
            index=table.on_device(table.step[rows]),
            steps=table.step[rows].tolist(),
            sources=[image.source for image in table.images(rows)],
            preview=self.preview,
            values=values,
            memory=memory,
        )

    def _keep(self, number: int, rows: np.ndarray, sight: Sight) -> None:
        observer = self.observers[number]
        if not (observer.values or observer.memory):
            return
        places = self.trajectories.on_device(rows)
        if observer.values:
            self._values[number].index_copy_(0, places, sight.values[: len(rows)])
        if observer.memory:
            self._memory[number].index_copy_(1, places, sight.memory[:, : len(rows)])
