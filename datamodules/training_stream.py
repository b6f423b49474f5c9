"""Shuffled, augmented training images, read from files batch by batch.

Order and augmentation depend on seed, epoch and image alone. Training that resumes, even in the
middle of an epoch, therefore sees the same images as uninterrupted training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from datamodules.augmentation import Prepare
from datamodules.config import OnError
from datamodules.image_set import ImageSet
from datamodules.loader import ImageLoader, read_item
from diffguard.augment.mixtures import Mixtures


def mixed_seed(seed: int, epoch: int, place: int) -> int:
    """The seed of the random numbers of one place in one epoch."""
    # The primes keep neighboring seeds, epochs and places apart.
    return ((seed * 1_000_003 + epoch) * 10_000_019 + place) % 2**63


class TrainingStream(Dataset[dict[str, Any]]):
    """Prepared and augmented training images, picked by (index, epoch).

    The augmentation does not depend on the number of workers.

    Args:
        images: The ID training set.
        prepare: Brings an image to the working size.
        augment: Random transformation of `(C, H, W)` that draws from torch's CPU generator; or
            None.
        seed: Seed of the augmentation.
        mixtures: Mixes a share of the images before they are augmented; None mixes none.
    """

    on_error: OnError = "stop"

    def __init__(
        self,
        images: ImageSet,
        prepare: Prepare,
        augment: Callable[[Tensor], Tensor] | None,
        seed: int,
        mixtures: Mixtures | None = None,
    ) -> None:
        self.images, self.prepare, self.augment, self.seed = images, prepare, augment, seed
        self.mixtures = mixtures

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, pick: tuple[int, int]) -> dict[str, Any]:
        position, epoch = pick
        item = read_item(self.images, position, self.prepare)
        if self.mixtures is not None:
            place = torch.tensor([position])
            item["image"] = self.mixtures(item["image"][None], place, epoch)[0]
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                # `torch.manual_seed` would also seed the generators of the accelerators.
                torch.default_generator.manual_seed(mixed_seed(self.seed, epoch, position))
                item["image"] = self.augment(item["image"])
        return item


class EpochSampler(DistributedSampler):
    """Shuffled (index, epoch) picks of one rank; the order depends on seed and epoch alone.

    Lightning calls `set_epoch` before each epoch, also before a resumed one.

    Attributes:
        skip: Number of picks that the next epoch skips.
    """

    skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, self.skip = self.skip, 0
        for index in islice(super().__iter__(), first, None):
            yield index, self.epoch


class TrainingLoader(ImageLoader):
    """Loads batches of a `TrainingStream`; it can resume in the middle of an epoch."""

    sampler: EpochSampler
    batch_size: int
    _count = _skip = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        first, self._skip = self._skip, 0
        self.sampler.skip = first * self.batch_size
        for number, batch in enumerate(super().__iter__(), first + 1):
            self._count = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches yielded in this epoch, for Lightning's checkpoints."""
        return {"batches": self._count % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip this number of batches in the next epoch."""
        self._skip = state["batches"]
