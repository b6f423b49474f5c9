"""Training images that lie decoded in memory, where the training device finds them.

Small images are read from files more slowly than a fast device learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from datamodules.augmentation import BatchAugmentation, Prepare
from datamodules.evaluation_stream import ImageLoader, OnError, _read, mixed_seed
from datamodules.image_set import ImageSet


def decode(batches: Iterable[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Read batches of prepared images.

    Args:
        batches: Batches of an `ImageLoader`.

    Returns:
        uint8 `(N, C, H, W)`, rounded to 256 levels, which is exact for 8-bit images that were not
        resized; and the labels, int64 `(N,)`.
    """
    images, labels = [], []
    for batch in batches:
        images.append((batch["image"] * 255.0).round_().to(torch.uint8))
        labels.append(batch["label"])
    return torch.cat(images), torch.cat(labels)


class MemoryLoader:
    """Shuffled, augmented batches `{image, label, index}` on a device.

    Order and augmentation depend on seed, epoch and number of the batch alone: training that
    resumes, in the middle of an epoch too, sees what it would have seen, on any device.

    Args:
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`.
        sampler: Gives the order of an epoch; Lightning tells it which one.
        batch_size: Images a batch; a last, smaller batch is dropped where there is a whole one.
        augment: Random transformation of a batch, or None.
        seed: Seed of the augmentation.
        device: Where the images lie.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        sampler: EpochSampler,
        batch_size: int,
        augment: BatchAugmentation | None,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        self.sampler, self.batch_size = sampler, min(batch_size, len(sampler))
        self.augment, self.seed = augment, seed
        self._given = self._skip = 0

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        first, self._skip = self._skip, 0
        order = torch.tensor([index for index, _ in self.sampler])
        shares = order[: len(self) * self.batch_size].view(len(self), -1)
        for number in range(first, len(self)):
            self._given = number + 1
            index = shares[number].to(self.images.device)
            image = self.images[index].float() / 255.0
            if self.augment is not None:
                place = number * self.sampler.num_replicas + self.sampler.rank
                generator = torch.Generator()
                generator.manual_seed(mixed_seed(self.seed, self.sampler.epoch, place))
                image = self.augment(image, generator)
            yield {"image": image, "label": self.labels[index], "index": index}

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given; Lightning keeps it in its checkpoints."""
        return {"batches": self._given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after so many batches."""
        self._skip = state["batches"]


class TrainingStream(Dataset[dict[str, Any]]):
    """Prepared and augmented training images, picked by (index, epoch).

    The augmentation of an image depends on seed, epoch and index alone, so training that resumes
    sees what it would have seen, with any number of workers.

    Args:
        images: The ID training set.
        prepare: Brings an image to the working size.
        augment: Random transformation of `(C, H, W)`, drawing from torch's CPU generator; or None.
        seed: Seed of the augmentation.
    """

    on_error: OnError = "stop"

    def __init__(
        self,
        images: ImageSet,
        prepare: Prepare,
        augment: Callable[[Tensor], Tensor] | None,
        seed: int,
    ) -> None:
        self.images, self.prepare, self.augment, self.seed = images, prepare, augment, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, pick: tuple[int, int]) -> dict[str, Any]:
        position, epoch = pick
        item = _read(self.images, position, self.prepare)
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                # Not `torch.manual_seed`, which would also set the accelerators' generators.
                torch.default_generator.manual_seed(mixed_seed(self.seed, epoch, position))
                item["image"] = self.augment(item["image"])
        return item


class EpochSampler(DistributedSampler):
    """Shuffled (index, epoch) picks of one rank; the order depends on seed and epoch alone.

    Lightning calls `set_epoch` before each epoch, a resumed one included.

    Attributes:
        skip: Picks that the next epoch begins after.
    """

    skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, self.skip = self.skip, 0
        for index in islice(super().__iter__(), first, None):
            yield index, self.epoch


class TrainingLoader(ImageLoader):
    """Loads batches of a `TrainingStream`; it can begin in the middle of an epoch."""

    _given = _skip = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first, self._skip = self._skip, 0
        self.sampler.skip = first * self.batch_size
        for number, batch in enumerate(super().__iter__(), first + 1):
            self._given = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given; Lightning keeps it in its checkpoints."""
        return {"batches": self._given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after so many batches."""
        self._skip = state["batches"]
