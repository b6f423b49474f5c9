"""The classifier's features of ID training images, on which feature baselines are fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

# Rows that a fit computes on at once. It bounds the memory: 1.28 million features of width 2,048
# take 10 GB, and most fits would copy them several times.
CHUNK_ROWS = 65_536


@dataclass
class Reference:
    """The classifier's features of ID training images, on which feature baselines are fitted.

    Attributes:
        features: `(N, D)` float32.
        labels: `(N,)` int64, true labels.
        share: Share of the ID training images that were chosen for it, in (0, 1].
    """

    features: Tensor
    labels: Tensor
    share: float = 1.0

    @property
    def training_images(self) -> int:
        """Number of ID training images, of which these are a share."""
        return round(len(self.features) / self.share)

    def neighbors(self, knn_k: int) -> int:
        """Neighbors among these images that correspond to `knn_k` among all training images.

        The fewer images are chosen, the farther apart they are: the distance to neighbor k of all
        images is about the distance to neighbor k · share of a share of them (Sun et al., 2022,
        choose k in this proportion).
        """
        return max(1, round(knn_k * self.share))

    def on_cpu(self) -> Reference:
        """The same features in float32 on the CPU."""
        return Reference(self.features.float().cpu(), self.labels.cpu(), self.share)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels of at most `CHUNK_ROWS` images at a time."""
        parts = self.features.split(CHUNK_ROWS), self.labels.split(CHUNK_ROWS)
        return zip(*parts, strict=True)
