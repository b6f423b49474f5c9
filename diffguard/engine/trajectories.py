"""The trajectories in flight: their states, and which network passes they wait for.

An image occupies one slot with two trajectories. The main one inverts and is then guided; the
auxiliary one, where it is wanted, is the unguided synthesis from the same latent. A trajectory
waits for one pass (without label) or two (with the label as well) at its present state.

With P slots, row `slot` is the main trajectory of a slot and row `P + slot` the auxiliary one. A
pass without label has the number of its row, one with label (of a main trajectory) is `2 P + slot`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Finished:
    """What a slot held when its image was done.

    Attributes:
        job: The job.
        stop_index: Index of the last inversion step made.
        passes: Network passes that the image took.
        latent: The state at which inversion stopped.
        guided: Final state of the main trajectory.
        unguided: Final state without guidance; the same as `guided` where both are one.
    """

    job: Any
    stop_index: int
    passes: int
    latent: Tensor
    guided: Tensor
    unguided: Tensor


class Pool:
    """A fixed number of slots; tensors are allocated when the first image shows their shape.

    Args:
        capacity: Number P of slots.

    Attributes:
        jobs: The job in each slot.
        index: `(2 P,)` the step that each trajectory makes next.
        start: `(P,)` the synthesis step at which a slot was turned round.
        label: `(P,)` class to guide to, -1 for none.
        guided: `(P,)` whether guidance has any effect.
        with_label: `(P,)` whether the main trajectory's next step needs the pass with label.
    """

    x: Tensor  # (2 P, …) states
    noise: Tensor  # (3 P, …) what the passes gave
    shown: Tensor  # (P, …) what early stop compares the states with
    latent: Tensor  # (P, …) the states at which inversion stopped

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs: list[Any] = [None] * capacity
        self.index = np.zeros(2 * capacity, dtype=np.int64)
        self.start = np.zeros(capacity, dtype=np.int64)
        self.label = np.zeros(capacity, dtype=np.int64)
        self.guided = np.zeros(capacity, dtype=bool)
        self.with_label = np.zeros(capacity, dtype=bool)
        self._masks: list[Tensor | None] = [None] * capacity
        self._inverts = np.zeros(capacity, dtype=bool)
        self._pending = np.zeros(3 * capacity, dtype=bool)
        self._open = np.zeros(2 * capacity, dtype=bool)
        # Slots whose two syntheses wait for one pass, that of the state from which both start.
        self._shared = np.zeros(capacity, dtype=bool)
        self._has_auxiliary = np.zeros(capacity, dtype=bool)
        self._stop = np.zeros(capacity, dtype=np.int64)
        self._passes = np.zeros(capacity, dtype=np.int64)
        self._age = np.zeros(capacity, dtype=np.int64)
        self._free = list(range(capacity - 1, -1, -1))
        self._admitted = 0

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    @property
    def pending_count(self) -> int:
        """Number of network passes that could be made now."""
        return int(np.count_nonzero(self._pending))

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """Slots of rows or passes."""
        return numbers % self.capacity

    def rows(self, passes: np.ndarray) -> np.ndarray:
        """Rows whose states passes see."""
        return passes % (2 * self.capacity)

    def sees_label(self, passes: np.ndarray) -> np.ndarray:
        """Which passes are those with label."""
        return passes >= 2 * self.capacity

    def is_main(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are main trajectories."""
        return rows < self.capacity

    def inverts(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are inverting."""
        return self.is_main(rows) & self._inverts[self.slots(rows)]

    def is_masked(self, slots: np.ndarray) -> np.ndarray:
        """Which slots are guided inside a mask only."""
        return np.array([self._masks[slot] is not None for slot in slots.tolist()], dtype=bool)

    def admit(
        self,
        job: Any,
        state: Tensor,
        mask: Tensor | None,
        *,
        guided: bool,
        shown: Tensor | None = None,
    ) -> int:
        """Put an image into a free slot and return the slot."""
        if not hasattr(self, "x"):
            shapes = ((k * self.capacity, *state.shape) for k in (2, 3, 1))
            self.x, self.noise, self.latent = map(state.new_zeros, shapes)
            if shown is not None:
                self.shown = shown.new_zeros(self.capacity, *shown.shape)
        slot = self._free.pop()
        both = [slot, self.capacity + slot]
        self.jobs[slot], self._masks[slot] = job, mask
        self.label[slot], self.guided[slot] = job.label, guided
        self.x[slot] = state
        if shown is not None:
            self.shown[slot] = shown
        self._inverts[slot], self.index[both] = True, 0
        self._open[both], self._has_auxiliary[slot] = (True, False), False
        self._passes[slot], self._age[slot] = 0, self._admitted
        self._admitted += 1
        return slot

    def request(self, slots: np.ndarray, *, null: np.ndarray, label: np.ndarray) -> None:
        """Ask for the passes of main trajectories at their present states.

        Args:
            slots: Their slots.
            null: Which of them need the pass without label.
            label: Which of them need the one with label.
        """
        self._pending[slots], self._pending[2 * self.capacity + slots] = null, label
        self.with_label[slots] = label
        alone = slots[self._shared[slots] & ~null]
        self._shared[alone] = False
        self.request_auxiliary(alone)

    def request_auxiliary(self, slots: np.ndarray) -> None:
        """Ask for the passes of auxiliary trajectories at their present states."""
        self._pending[self.capacity + slots] = True

    def take(self, count: int, *, longest_first: bool = False) -> np.ndarray:
        """Choose up to `count` passes.

        Args:
            count: Most passes.
            longest_first: Begin with the trajectories that have the most steps left, not with the
                oldest images.

        Returns:
            Their numbers.
        """
        passes = np.flatnonzero(self._pending)
        rank = self._age[self.slots(passes)]
        if longest_first:
            rows, top = self.rows(passes), self.index.max() + 1
            # Those that invert have all of the synthesis before them.
            rank = -np.where(self.inverts(rows), 2 * top - self.index[rows], self.index[rows])
        passes = passes[np.argsort(rank, kind="stable")[:count]]
        self._pending[passes] = False
        return passes

    def store(self, passes: np.ndarray, noise: Tensor) -> np.ndarray:
        """Keep the noise `(len(passes), …)` of a call.

        Returns:
            The rows that now have all they waited for.
        """
        self.noise.index_copy_(0, self._on_device(passes), noise)
        self._passes += np.bincount(self.slots(passes), minlength=self.capacity)
        null = passes[passes < self.capacity]
        shared = null[self._shared[null]]
        if len(shared):
            both = self._on_device(self.capacity + shared)
            self.noise.index_copy_(0, both, self.null_noise(shared))
            self._shared[shared] = False
        rows = self.rows(passes)
        main = np.unique(rows[self.is_main(rows)])
        ready = main[~(self._pending[main] | self._pending[2 * self.capacity + main])]
        return np.concatenate([ready, rows[~self.is_main(rows)], self.capacity + shared])

    def states(self, rows: np.ndarray) -> Tensor:
        """Present states of rows."""
        return self.x.index_select(0, self._on_device(rows))

    def null_noise(self, rows: np.ndarray) -> Tensor:
        """Noise without label of rows."""
        return self.noise.index_select(0, self._on_device(rows))

    def label_noise(self, slots: np.ndarray) -> Tensor:
        """Noise with label of main trajectories."""
        return self.noise.index_select(0, self._on_device(2 * self.capacity + slots))

    def images(self, slots: np.ndarray) -> Tensor:
        """The images in slots, as early stop sees them."""
        return self.shown.index_select(0, self._on_device(slots))

    def move(self, rows: np.ndarray, states: Tensor) -> None:
        """Set the states of rows."""
        self.x.index_copy_(0, self._on_device(rows), states)

    def begin_synthesis(self, slot: int, start: int, *, unguided: bool) -> None:
        """Turn a slot round, at synthesis step `start`."""
        auxiliary = self.capacity + slot
        self._stop[slot] = self.index[slot]
        self.latent[slot] = self.x[slot]
        self._inverts[slot], self.start[slot] = False, start
        self.index[[slot, auxiliary]] = start
        # Without guidance both syntheses are one.
        if unguided and self.guided[slot]:
            self.x[auxiliary] = self.x[slot]
            self._open[auxiliary] = self._has_auxiliary[slot] = self._shared[slot] = True

    def by_mask(self, slots: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor | None]]:
        """Positions in `slots` without a mask, then those with one and their masks."""
        masked = self.is_masked(slots)
        if not masked.all():
            yield np.flatnonzero(~masked), None
        if masked.any():
            masks = [self._masks[slot] for slot in slots[masked].tolist()]
            yield np.flatnonzero(masked), torch.stack([m for m in masks if m is not None])

    def finish(self, row: int) -> Finished | None:
        """Close a trajectory; what the slot held where that was its last one."""
        self._open[row] = False
        slot = row % self.capacity
        if self._open[slot] or self._open[self.capacity + slot]:
            return None
        return self._release(slot)

    def _release(self, slot: int) -> Finished:
        unguided = slot + self.capacity * int(self._has_auxiliary[slot])
        done = Finished(
            job=self.jobs[slot],
            stop_index=int(self._stop[slot]),
            passes=int(self._passes[slot]),
            latent=self.latent[slot].clone(),
            guided=self.x[slot].clone(),
            unguided=self.x[unguided].clone(),
        )
        self._inverts[slot], self.jobs[slot], self._masks[slot] = False, None, None
        self._free.append(slot)
        return done

    def _on_device(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.x.device, non_blocking=True)
