"""The trajectories in flight: their states, and which network passes they wait for.

An image occupies one slot with two trajectories. The main one inverts and is then guided; the
auxiliary one, where it is wanted, is the unguided synthesis from the same latent. A trajectory
waits for one pass (without label) or two (with the label as well) at its present state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAIN, AUX = 0, 1
# Rows of the table of pending passes.
_MAIN_NULL, _AUX_NULL, _MAIN_LABEL = 0, 1, 2


class Phase(IntEnum):
    """What the main trajectory of a slot does."""

    FREE = 0
    INVERT = 1
    SYNTHESIZE = 2


@dataclass
class Units:
    """Network passes chosen for one call, arrays of one length.

    Attributes:
        role: `MAIN` or `AUX`.
        slot: Slot in the pool.
        label: Whether the pass sees the label.
    """

    role: np.ndarray
    slot: np.ndarray
    label: np.ndarray


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
    """

    x: Tensor  # (2, P, …) states
    noise: Tensor  # (2, P, …) noise without label
    noise_label: Tensor  # (P, …) noise with label, main trajectory
    clean: Tensor  # (P, …) the encoded images
    latent: Tensor  # (P, …) the states at which inversion stopped

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs: list[Any] = [None] * capacity
        self.masks: list[Tensor | None] = [None] * capacity
        self.phase = np.full(capacity, Phase.FREE)
        self.index = np.zeros((2, capacity), dtype=np.int64)
        self.start = np.zeros(capacity, dtype=np.int64)
        self.guided = np.zeros(capacity, dtype=bool)
        self.both = np.zeros(capacity, dtype=bool)
        self.label_only = np.zeros(capacity, dtype=bool)
        self._pending = np.zeros((3, capacity), dtype=bool)
        self._shared = np.zeros(capacity, dtype=bool)
        self._open = np.zeros((2, capacity), dtype=bool)
        self._has_aux = np.zeros(capacity, dtype=bool)
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
        return int(self._pending.sum())

    def labels(self, slots: np.ndarray) -> np.ndarray:
        """Labels of the jobs in some slots, int64."""
        return np.array([self.jobs[slot].label for slot in slots.tolist()], dtype=np.int64)

    def admit(self, job: Any, state: Tensor, mask: Tensor | None, *, guided: bool) -> int:
        """Put an image into a free slot and return the slot."""
        if not hasattr(self, "x"):
            shape = (self.capacity, *state.shape)
            self.x, self.noise = state.new_zeros(2, *shape), state.new_zeros(2, *shape)
            self.noise_label, self.clean = state.new_zeros(shape), state.new_zeros(shape)
            self.latent = state.new_zeros(shape)
        slot = self._free.pop()
        self.jobs[slot], self.masks[slot], self.guided[slot] = job, mask, guided
        self.x[MAIN, slot] = self.clean[slot] = state
        self.phase[slot], self.index[:, slot] = Phase.INVERT, 0
        self._open[:, slot], self._has_aux[slot] = (True, False), False
        self._passes[slot], self._age[slot] = 0, self._admitted
        self._admitted += 1
        return slot

    def request(self, slot: int, *, null: bool, label: bool) -> None:
        """Ask for the passes of the main trajectory at its present state."""
        self._pending[_MAIN_NULL, slot], self._pending[_MAIN_LABEL, slot] = null, label
        self.both[slot], self.label_only[slot] = null and label, label and not null
        if self._shared[slot] and not null:
            self._shared[slot], self._pending[_AUX_NULL, slot] = False, True

    def request_aux(self, slot: int) -> None:
        """Ask for the pass of the unguided trajectory at its present state."""
        self._pending[_AUX_NULL, slot] = True

    def take(self, count: int) -> Units:
        """Choose up to `count` passes, those of the oldest images first."""
        kind, slot = np.nonzero(self._pending)
        order = np.argsort(self._age[slot], kind="stable")[:count]
        kind, slot = kind[order], slot[order]
        self._pending[kind, slot] = False
        role = np.where(kind == _AUX_NULL, AUX, MAIN)
        return Units(role, slot, kind == _MAIN_LABEL)

    def store(self, units: Units, noise: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Keep the noise of a call.

        Returns:
            Slots whose main, and slots whose auxiliary trajectory has all it waited for.
        """
        null = ~units.label
        self.noise[units.role[null], units.slot[null]] = noise[torch.from_numpy(null)]
        self.noise_label[units.slot[units.label]] = noise[torch.from_numpy(units.label)]
        np.add.at(self._passes, units.slot, 1)
        main = np.unique(units.slot[units.role == MAIN])
        ready = ~(self._pending[_MAIN_NULL, main] | self._pending[_MAIN_LABEL, main])
        seen = units.slot[null & (units.role == MAIN)]
        shared = seen[self._shared[seen]]
        # Both syntheses start from the same state, so they share its pass without label.
        self.noise[AUX, shared] = self.noise[MAIN, shared]
        self._shared[shared] = False
        return main[ready], np.concatenate([units.slot[units.role == AUX], shared])

    def begin_synthesis(self, slot: int, start: int, *, unguided: bool) -> None:
        """Turn a slot round, at synthesis step `start`."""
        self._stop[slot] = self.index[MAIN, slot]
        self.latent[slot] = self.x[MAIN, slot]
        self.phase[slot], self.start[slot] = Phase.SYNTHESIZE, start
        self.index[:, slot] = start
        # Without guidance both syntheses are one.
        if unguided and self.guided[slot]:
            self.x[AUX, slot] = self.x[MAIN, slot]
            self._open[AUX, slot] = self._has_aux[slot] = self._shared[slot] = True

    def guided_rows(self, slots: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor | None]]:
        """Positions in `slots` that are guided: those without a mask, then those with one."""
        masked = np.array([self.masks[slot] is not None for slot in slots.tolist()])
        guided = self.guided[slots]
        everywhere = np.nonzero(guided & ~masked)[0]
        if len(everywhere):
            yield everywhere, None
        inside = np.nonzero(guided & masked)[0]
        if len(inside):
            masks = [
                mask for slot in slots[inside].tolist() if (mask := self.masks[slot]) is not None
            ]
            yield inside, torch.stack(masks)

    def finish(self, slot: int, role: int) -> bool:
        """Close a trajectory; true when the image has none left."""
        self._open[role, slot] = False
        return not self._open[:, slot].any()

    def release(self, slot: int) -> Finished:
        """Free a slot and hand out what it held."""
        role = AUX if self._has_aux[slot] else MAIN
        done = Finished(
            job=self.jobs[slot],
            stop_index=int(self._stop[slot]),
            passes=int(self._passes[slot]),
            latent=self.latent[slot].clone(),
            guided=self.x[MAIN, slot].clone(),
            unguided=self.x[role, slot].clone(),
        )
        self.phase[slot], self.jobs[slot], self.masks[slot] = Phase.FREE, None, None
        self._free.append(slot)
        return done
