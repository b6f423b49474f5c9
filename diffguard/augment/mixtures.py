"""Mixtures of training images, drawn anew in each epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.augment.mixing import HALVES, DiffuseMix
from diffguard.randomness import image_generator


class Mixtures:
    """Replaces a share of the training images by mixtures with their edits.

    What happens to an image depends on the seed, the epoch and its position alone.

    Args:
        edits: uint8 `(N, C, H, W)`, the edit of each training image.
        fractals: `(F, C, H, W)` in [0, 1], at least one.
        transform: Mixes them.
        share: Share of mixtures, in [0, 1].
        seed: The seed.
    """

    def __init__(
        self, edits: Tensor, fractals: Tensor, transform: DiffuseMix, share: float, seed: int
    ) -> None:
        self.edits, self.fractals, self.transform = edits, fractals, transform
        self.share, self.seed = share, seed

    def __call__(self, images: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """Mix some of the images of a batch.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            positions: int64 `(N,)`, their positions in the training set.
            epoch: The epoch.

        Returns:
            `(N, C, H, W)` in [0, 1], on the device of `images`.
        """
        draws = torch.stack([self._draw(position, epoch) for position in positions.tolist()])
        rows = (draws[:, 0] < self.share).nonzero()[:, 0]
        if not len(rows):
            return images
        fractals = self.fractals[(draws[rows, 1] * len(self.fractals)).long()]
        halves = (draws[rows, 2] * len(HALVES)).long()
        edits = self.edits[positions.cpu()[rows]].float() / 255.0
        place = rows.to(images.device)
        mixtures = self.transform(
            images[place], edits.to(images.device), fractals.to(images.device), halves
        )
        return images.index_copy(0, place, mixtures)

    def _draw(self, position: int, epoch: int) -> Tensor:
        generator = image_generator(self.seed, "mixture", epoch, position)
        return torch.rand(3, generator=generator, dtype=torch.float64)
