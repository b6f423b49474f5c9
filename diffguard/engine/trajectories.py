"""The trajectories in flight: their states, and the network passes that they wait for.

A row of the table is a trajectory of an image. At the end of a phase it continues with the next
one, and further phases that start there get rows of their own. Before each step a trajectory waits
for one network pass, or for two: without the label and with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diffguard.engine.jobs import Source
from diffguard.engine.observer import Observer


@dataclass
class ImageInFlight:
    """An image while its trajectories run.

    Attributes:
        source: The image.
        passes_for: Numbers of the phases that a network pass serves -> such passes so far.
        running: Number of its trajectories that have not ended.
        last_step: Number of a phase that has ended -> index of its last step.
        states: Number of a phase that has ended -> its last state.
        values: Number of a phase and an observer of it -> what the observer counted.
    """

    source: Source
    passes_for: Counter[tuple[int, ...]] = field(default_factory=Counter)
    running: int = 0
    last_step: dict[int, int] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)
    values: dict[tuple[int, Observer], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Passes:
    """Network passes that one call makes.

    Attributes:
        rows: `(N,)` rows of the trajectories.
        with_label: `(N,)` bool, whether the pass sees the label.
    """

    rows: np.ndarray
    with_label: np.ndarray


class Trajectories:
    """A table with one row per trajectory.

    Tensors are allocated when the first image shows the shape of a state.

    Args:
        images: Largest number of images in flight.
        per_image: Largest number of trajectories of an image at a time.
        memory: Number of tensors that the solver keeps for a row besides its state.

    Attributes:
        image: The image of each row in use.
        node: `(R,)` number of the present phase.
        step: `(R,)` index of the step that is made next.
        count: `(R,)` steps made since the solver's memory was empty.
        phase_step: `(R,)` number of the next step in its phase, counted from 0.
        part: `(R,)` network passes made in the step, of those that the solver needs.
        label: `(R,)` class of the image; -1 if it has none.
        wants: `(2, R)` bool, whether the pass without, and with the label is still to be made.
    """

    x: Tensor  # (R, …) states
    memory: Tensor  # (memory, R, …) the solver's memory
    noise: Tensor  # (2, R, …) results of the passes without and with the label

    def __init__(self, images: int, per_image: int, memory: int = 0) -> None:
        rows = images * per_image
        self.image: dict[int, ImageInFlight] = {}
        columns = np.zeros((7, rows), dtype=np.int64)
        self.node, self.step, self.count, self.phase_step, self.part, self.label, self._age = (
            columns
        )
        self._columns = columns
        self.wants = np.zeros((2, rows), dtype=bool)
        # The row whose next pass of the same kind serves this row too; -1 for none.
        self._leader = np.full((2, rows), -1)
        self._free = list(range(rows - 1, -1, -1))
        self._memory_size = memory
        self._room = images
        self._images_so_far = 0

    @property
    def has_room(self) -> bool:
        """Whether another image fits in."""
        return self._room > 0

    @property
    def pending_count(self) -> int:
        """Number of network passes that could be made now."""
        return int(np.count_nonzero(self.wants))

    def images(self, rows: np.ndarray) -> list[ImageInFlight]:
        """The images of rows in use."""
        return [self.image[row] for row in rows.tolist()]

    def enter(self) -> None:
        """Take an image in; its trajectories are then added."""
        self._room -= 1
        self._images_so_far += 1

    def add(self, image: ImageInFlight, state: Tensor) -> int:
        """Add a trajectory at the state `(…)` of the image that entered last; returns its row."""
        if not hasattr(self, "x"):
            self.x = state.new_zeros(len(self.node), *state.shape)
            self.memory = state.new_zeros(self._memory_size, *self.x.shape)
            self.noise = state.new_zeros(2, len(self.node), *state.shape)
        row = self._free.pop()
        image.running += 1
        self.image[row], self.label[row] = image, image.source.job.label
        self._age[row] = self._images_so_far
        self.x[row] = state
        return row

    def begin(self, row: int, node: int, step: int, *, keeps_memory: bool = False) -> None:
        """Begin a phase with a trajectory.

        Args:
            row: Its row.
            node: Number of the phase.
            step: Index of its first step.
            keeps_memory: Keep the solver's memory of the phase before.
        """
        self.node[row], self.step[row] = node, step
        self.phase_step[row] = self.part[row] = 0
        if not keeps_memory:
            self.count[row] = 0
            if self._memory_size:
                self.memory[:, row] = 0

    def fork(self, row: int) -> int:
        """A copy of a trajectory in a row of its own, which is returned."""
        twin = self._free.pop()
        self.image[twin] = self.image[row]
        self.image[row].running += 1
        self._columns[:, twin] = self._columns[:, row]
        self.x[twin] = self.x[row]
        if self._memory_size:
            self.memory[:, twin] = self.memory[:, row]
        return twin

    def request(
        self, rows: np.ndarray | int, *, null: np.ndarray | bool, label: np.ndarray | bool
    ) -> None:
        """Ask for the next passes of trajectories.

        Args:
            rows: Their rows, or one row.
            null: Which of them need the pass without the label.
            label: Which of them need the pass with the label.
        """
        self.wants[0, rows], self.wants[1, rows] = null, label

    def share(self, row: int, leader: int) -> None:
        """Let the next passes of a trajectory serve another one at the same state and step."""
        shared = self.wants[:, row] & self.wants[:, leader]
        self._leader[shared, row] = leader
        self.wants[shared, row] = False

    def take(self, count: int, steps_left: np.ndarray | None = None) -> Passes:
        """Choose up to `count` of the requested passes.

        Args:
            count: Largest number of passes.
            steps_left: `(R,)`; if given, those with the most steps left come first, instead of
                the oldest images.
        """
        with_label, rows = np.nonzero(self.wants)
        rank = self._age[rows] if steps_left is None else -steps_left[rows]
        order = np.argsort(rank, kind="stable")[:count]
        passes = Passes(rows[order], with_label[order].astype(bool))
        self.wants[with_label[order], passes.rows] = False
        return passes

    def store(self, passes: Passes, noise: Tensor) -> np.ndarray:
        """Store the noise `(N, …)` that N passes returned.

        Returns:
            The rows whose next step has all its passes.
        """
        kinds = passes.with_label.astype(np.int64)
        self._store(kinds, passes.rows, noise)
        # The phases that each pass serves.
        served = [[node] for node in self.node[passes.rows].tolist()]
        ready = np.zeros(len(self.node), dtype=bool)
        ready[passes.rows] = True
        follows = self._leader >= 0
        if follows.any():
            results = np.zeros(self.wants.shape, dtype=bool)
            results[kinds, passes.rows] = True
            places = {key: place for place, key in enumerate(zip(kinds, passes.rows, strict=True))}
            kinds, followers = np.nonzero(follows & results[[[0], [1]], self._leader])
            leaders = self._leader[kinds, followers]
            self._store(kinds, followers, self._noise(kinds, leaders))
            for kind, leader, node in zip(kinds, leaders, self.node[followers], strict=True):
                served[places[kind, leader]].append(int(node))
            self._leader[kinds, followers] = -1
            ready[followers] = True
            ready &= (self._leader < 0).all(0)
        for image, nodes in zip(self.images(passes.rows), served, strict=True):
            image.passes_for[tuple(sorted(nodes))] += 1
        return np.flatnonzero(ready & ~(self.wants[0] | self.wants[1]))

    def null_noise(self, rows: np.ndarray) -> Tensor:
        """Noise of rows, predicted without the label."""
        return self._noise(np.zeros_like(rows), rows)

    def label_noise(self, rows: np.ndarray) -> Tensor:
        """Noise of rows, predicted with the label."""
        return self._noise(np.ones_like(rows), rows)

    def states(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """States `(N, …)` of rows, and the solver's memory of them `(memory, N, …)`."""
        places = self.on_device(rows)
        x = self.x.index_select(0, places)
        return x, self.memory.index_select(1, places) if self._memory_size else self.memory

    def move(self, rows: np.ndarray, x: Tensor, memory: Tensor | None = None) -> None:
        """Set the states of rows, and the solver's memory of them."""
        places = self.on_device(rows)
        self.x.index_copy_(0, places, x)
        if memory is not None and self._memory_size:
            self.memory.index_copy_(1, places, memory)

    def end(self, row: int) -> ImageInFlight | None:
        """End a trajectory; returns its image if this was the image's last one."""
        image = self.image.pop(row)
        image.running -= 1
        self._free.append(row)
        if image.running:
            return None
        self._room += 1
        return image

    def on_device(self, numbers: np.ndarray) -> Tensor:
        """Numbers as a tensor beside the states."""
        return torch.from_numpy(numbers).to(self.x.device, non_blocking=True)

    def _noise(self, kinds: np.ndarray, rows: np.ndarray) -> Tensor:
        places = self.on_device(kinds * len(self.node) + rows)
        return self.noise.flatten(0, 1).index_select(0, places)

    def _store(self, kinds: np.ndarray, rows: np.ndarray, noise: Tensor) -> None:
        places = self.on_device(kinds * len(self.node) + rows)
        self.noise.flatten(0, 1).index_copy_(0, places, noise)
