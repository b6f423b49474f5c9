"""The trajectories in flight: their states, and the network passes that they wait for.

An image starts with one trajectory, its inversion. When it stops, the same row of the table becomes
the guided synthesis, and the unguided synthesis gets a row of its own. Before each step a
trajectory waits for one network pass, or for two: without the label and with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffguard.engine.in_flight import ImageInFlight, Role


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

    Attributes:
        image: The image of each row in use.
        role: `(R,)` `Role` of each trajectory.
        step: `(R,)` index of the step that it makes next.
        start: `(R,)` index of the first synthesis step.
        label: `(R,)` class of the image; -1 if it has none.
        guided: `(R,)` bool, whether guidance has any effect on the trajectory's synthesis.
        mixes: `(R,)` bool, whether the next step uses the pass with the label.
        wants_null: `(R,)` bool, whether the pass without the label is still to be made.
        wants_label: `(R,)` bool, whether the pass with the label is still to be made.
    """

    x: Tensor  # (R, …) states
    noise: Tensor  # (2, R, …) results of the passes without and with the label

    def __init__(self, images: int, per_image: int) -> None:
        rows = images * per_image
        self.image: dict[int, ImageInFlight] = {}
        self.role = np.zeros(rows, dtype=np.int64)
        self.step = np.zeros(rows, dtype=np.int64)
        self.start = np.zeros(rows, dtype=np.int64)
        self.label = np.zeros(rows, dtype=np.int64)
        self.guided = np.zeros(rows, dtype=bool)
        self.mixes = np.zeros(rows, dtype=bool)
        self.wants_null = np.zeros(rows, dtype=bool)
        self.wants_label = np.zeros(rows, dtype=bool)
        self._age = np.zeros(rows, dtype=np.int64)
        # The row whose next pass without the label serves this row too; -1 for none.
        self._leader = np.full(rows, -1)
        self._free = list(range(rows - 1, -1, -1))
        self._room = images
        self._images_so_far = 0

    @property
    def has_room(self) -> bool:
        """Whether another image fits in."""
        return self._room > 0

    @property
    def pending_count(self) -> int:
        """Number of network passes that could be made now."""
        return int(np.count_nonzero(self.wants_null) + np.count_nonzero(self.wants_label))

    def images(self, rows: np.ndarray) -> list[ImageInFlight]:
        """The images of rows in use."""
        return [self.image[row] for row in rows.tolist()]

    def add(self, image: ImageInFlight, state: Tensor, *, guided: bool) -> int:
        """Start the inversion of an image at its clean state `(…)` and return its row."""
        if not hasattr(self, "x"):
            self.x = state.new_zeros(len(self.role), *state.shape)
            self.noise = state.new_zeros(2, len(self.role), *state.shape)
        row = self._free.pop()
        self.image[row], self.label[row], self.guided[row] = image, image.job.label, guided
        self.role[row], self.step[row] = Role.INVERSION, 0
        self._age[row] = self._images_so_far
        self.x[row] = state
        self._room -= 1
        self._images_so_far += 1
        return row

    def turn(self, row: int, start: int) -> None:
        """End an inversion and continue its row as the guided synthesis.

        Args:
            row: The row.
            start: Index of the first synthesis step.
        """
        image = self.image[row]
        image.stop_index = int(self.step[row])
        image.final[Role.INVERSION] = self.x[row].clone()
        self.role[row] = Role.GUIDED
        self.step[row] = self.start[row] = start

    def branch(self, row: int) -> None:
        """Add the unguided synthesis of an image, from the present state of the guided one.

        Both see the same state, so the guided one's pass without the label serves both. If it has
        not asked for one, the new trajectory asks for its own.
        """
        twin = self._free.pop()
        self.image[twin] = self.image[row]
        self.image[row].running += 1
        for column in (self.step, self.start, self.label, self._age):
            column[twin] = column[row]
        self.role[twin], self.guided[twin], self.mixes[twin] = Role.UNGUIDED, False, False
        self.x[twin] = self.x[row]
        if self.wants_null[row]:
            self._leader[twin] = row
        else:
            self.wants_null[twin] = True

    def request(self, rows: np.ndarray, *, null: np.ndarray, label: np.ndarray) -> None:
        """Ask for the passes of the next step of trajectories.

        Args:
            rows: Their rows.
            null: Which of them need the pass without the label.
            label: Which of them need the pass with the label.
        """
        self.wants_null[rows], self.wants_label[rows] = null, label
        self.mixes[rows] = label

    def take(self, count: int, *, longest_first: bool = False) -> Passes:
        """Choose up to `count` of the requested passes.

        Args:
            count: Largest number of passes.
            longest_first: Begin with the trajectories that have the most steps left, not with the
                oldest images.
        """
        without, with_label = np.flatnonzero(self.wants_null), np.flatnonzero(self.wants_label)
        rows = np.concatenate([without, with_label])
        sees_label = np.arange(len(rows)) >= len(without)
        rank = self._age[rows]
        if longest_first:
            step, most = self.step[rows], self.step.max() + 1
            # An inversion still has the whole synthesis to make.
            rank = -np.where(self.role[rows] == Role.INVERSION, 2 * most - step, step)
        order = np.argsort(rank, kind="stable")[:count]
        passes = Passes(rows[order], sees_label[order])
        self.wants_null[passes.rows[~passes.with_label]] = False
        self.wants_label[passes.rows[passes.with_label]] = False
        return passes

    def store(self, passes: Passes, noise: Tensor) -> np.ndarray:
        """Store the noise `(N, …)` that N passes returned.

        Returns:
            The rows whose next step has all its passes.
        """
        kind, place = self._on_device(np.stack([passes.with_label, passes.rows]))
        self.noise[kind, place] = noise
        for image in self.images(passes.rows):
            image.passes += 1
        null = np.zeros(len(self.role), dtype=bool)
        null[passes.rows[~passes.with_label]] = True
        followers = np.flatnonzero((self._leader >= 0) & null[self._leader])
        if len(followers):
            shared = self.null_noise(self._leader[followers])
            self.noise[0].index_copy_(0, self._on_device(followers), shared)
            self._leader[followers] = -1
        ready = np.zeros(len(self.role), dtype=bool)
        ready[passes.rows] = ready[followers] = True
        return np.flatnonzero(ready & ~self.wants_null & ~self.wants_label)

    def states(self, rows: np.ndarray) -> Tensor:
        """Present states of rows."""
        return self.x.index_select(0, self._on_device(rows))

    def null_noise(self, rows: np.ndarray) -> Tensor:
        """Noise of rows, predicted without the label."""
        return self.noise[0].index_select(0, self._on_device(rows))

    def label_noise(self, rows: np.ndarray) -> Tensor:
        """Noise of rows, predicted with the label."""
        return self.noise[1].index_select(0, self._on_device(rows))

    def move(self, rows: np.ndarray, states: Tensor) -> None:
        """Set the states of rows."""
        self.x.index_copy_(0, self._on_device(rows), states)

    def is_masked(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are guided inside a mask only, `(N,)` bool."""
        return np.array([image.mask is not None for image in self.images(rows)], dtype=bool)

    def by_mask(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor | None]]:
        """Positions in `rows` of images without a mask, then of those with one and their masks."""
        masked = self.is_masked(rows)
        if not masked.all():
            yield np.flatnonzero(~masked), None
        if masked.any():
            masks = [image.mask for image in self.images(rows) if image.mask is not None]
            yield np.flatnonzero(masked), torch.stack(masks)

    def end(self, row: int) -> ImageInFlight | None:
        """End a synthesis; returns its image if this was the image's last trajectory."""
        image = self.image.pop(row)
        image.final[Role(self.role[row])] = self.x[row].clone()
        image.running -= 1
        self._free.append(row)
        if image.running:
            return None
        self._room += 1
        return image

    def _on_device(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.x.device, non_blocking=True)
