"""The classifier's features of ID training images, on which feature baselines are fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# What a fit computes on at once, at most. It bounds the memory: 1.28 million features of width
# 2,048 take 10 GB, and most fits would copy them several times.
CHUNK_ROWS = 65_536
CHUNK_NUMBERS = 2**25
# Normalized features beyond 1 GiB are computed again for each batch instead of kept.
KEPT_NUMBERS = 2**28


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

    @property
    def chunk_rows(self) -> int:
        """Images that are computed on at once."""
        return max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // self.features.shape[1]))

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels of at most `chunk_rows` images at a time."""
        parts = self.features.split(self.chunk_rows), self.labels.split(self.chunk_rows)
        return zip(*parts, strict=True)


class UnitRows:
    """Features divided by their Euclidean norms, and multiplied by a factor each.

    Args:
        reference: The features.
        factors: `(N,)`; None leaves the rows at norm 1.

    Attributes:
        whole: `(N, D)`; None if they are too large to keep.
    """

    def __init__(self, reference: Reference, factors: Tensor | None = None) -> None:
        self._reference, self._factors = reference, factors
        self.whole: Tensor | None = None
        if reference.features.numel() <= KEPT_NUMBERS:
            whole, first = torch.empty_like(reference.features), 0
            for rows in self.chunks():
                whole[first : first + len(rows)] = rows
                first += len(rows)
            self.whole = whole

    def chunks(self) -> Iterator[Tensor]:
        """At most `Reference.chunk_rows` rows at a time."""
        size = self._reference.chunk_rows
        if self.whole is not None:
            yield from self.whole.split(size)
            return
        for number, (features, _) in enumerate(self._reference.chunks()):
            rows = F.normalize(features, dim=1)
            if self._factors is not None:
                rows *= self._factors[number * size : (number + 1) * size, None]
            yield rows
