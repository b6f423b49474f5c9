"""Training images that are decoded once and kept on the training device.

Reading small images from files is slower than training on them with a fast device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from datamodules.augmentation import BatchAugmentation
from datamodules.training_stream import EpochSampler, mixed_seed
from diffguard.augment.mixtures import Mixtures


def decode(batches: Iterable[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Read batches of prepared images.

    Args:
        batches: Batches of an `ImageLoader`.

    Returns:
        Images as uint8 `(N, C, H, W)`, rounded to 256 levels, which is exact for 8-bit images that
        were not resized; and labels, int64 `(N,)`.
    """
    images, labels = [], []
    for batch in batches:
        images.append((batch["image"] * 255.0).round_().to(torch.uint8))
        labels.append(batch["label"])
    return torch.cat(images), torch.cat(labels)


class MemoryLoader:
    """Shuffled, augmented batches `{image, label, index}` on a device.

    Order and augmentation depend on seed, epoch and batch number alone, on any device. Training
    that resumes, even in the middle of an epoch, sees the same images as uninterrupted training.

    Args:
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`.
        sampler: Gives the order of an epoch; Lightning sets its epoch.
        batch_size: Images per batch. The last batch is dropped if it is smaller, unless it is the
            only one.
        augment: Random transformation of a batch, or None.
        seed: Seed of the augmentation.
        device: The device that holds the images.
        mixtures: Mixes a share of the images before they are augmented; None mixes none.
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
        mixtures: Mixtures | None = None,
    ) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        self.sampler, self.batch_size = sampler, min(batch_size, len(sampler))
        self.augment, self.seed, self.mixtures = augment, seed, mixtures
        self._count = self._skip = 0

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        first, self._skip = self._skip, 0
        order = torch.tensor([index for index, _ in self.sampler])
        shares = order[: len(self) * self.batch_size].view(len(self), -1)
        for number in range(first, len(self)):
            self._count = number + 1
            index = shares[number].to(self.images.device)
            image = self.images[index].float() / 255.0
            if self.mixtures is not None:
                image = self.mixtures(image, index, self.sampler.epoch)
            if self.augment is not None:
                place = number * self.sampler.num_replicas + self.sampler.rank
                generator = torch.Generator()
                generator.manual_seed(mixed_seed(self.seed, self.sampler.epoch, place))
                image = self.augment(image, generator)
            yield {"image": image, "label": self.labels[index], "index": index}

    def state_dict(self) -> dict[str, int]:
        """The number of batches yielded in this epoch, for Lightning's checkpoints."""
        return {"batches": self._count % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip this number of batches in the next epoch."""
        self._skip = state["batches"]
