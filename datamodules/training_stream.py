"""Training images that lie decoded in memory, where the training device finds them.

Small images are read from files more slowly than a fast device learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.augmentation import CROP_PADDING, Augmentation
from datamodules.evaluation_stream import EpochSampler, mixed_seed
from diffguard.errors import UserError

BatchAugmentation = Callable[[Tensor, torch.Generator], Tensor]


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


def batch_augmentation(name: Augmentation) -> BatchAugmentation | None:
    """The augmentation of `transforms.py` for a whole batch at once; None for `none`.

    Raises:
        UserError: For one that works on single images only.
    """
    if name == "none":
        return None
    if name == "flip":
        return random_flip
    if name == "crop_flip":
        return random_crop_and_flip
    raise UserError(
        f"augment {name} works on single images: set data.in_memory to false, or take another of "
        + ", ".join(get_args(Augmentation))
    )


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images `(N, C, H, W)` from left to right."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def random_crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad images `(N, C, H, W)` by black, crop them at random to their size, flip half of them."""
    count, channels, height, width = images.shape
    padded = F.pad(images, [CROP_PADDING] * 4)
    top, left = torch.randint(2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[
        torch.arange(count, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        rows.to(images.device)[:, None, :, None],
        columns.to(images.device)[:, None, None, :],
    ]
