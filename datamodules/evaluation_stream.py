"""One stream over all sets of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.augmentation import Prepare
from datamodules.config import OnError
from datamodules.image_set import ImageSet
from datamodules.loader import read_item


class EvaluationStream(Dataset[dict[str, Any]]):
    """The concatenation of data sets, or a selection of it, prepared to the working size.

    Items are `{image (C, H, W), label, dataset, index, path, error}`. If `error` is not empty, the
    image is black and must not be scored.

    Args:
        sets: Data sets with different names.
        prepare: Brings an image to the working size.
        select: `(N, 2)` int64, the items as (number of the set, position in it); default: all, in
            order.
        on_error: What `ImageLoader` does with an unreadable image: `stop` raises its error, `skip`
            yields its item with the error text.
    """

    def __init__(
        self,
        sets: Sequence[ImageSet],
        prepare: Prepare,
        select: NDArray[np.int64] | None = None,
        on_error: OnError = "stop",
    ) -> None:
        self.sets, self.prepare, self.on_error = list(sets), prepare, on_error
        if select is None:
            sizes = [len(part) for part in sets]
            which = np.repeat(np.arange(len(sizes)), sizes)
            select = np.stack([which, np.concatenate([np.arange(size) for size in sizes])], 1)
        self.select = select

    def __len__(self) -> int:
        return len(self.select)

    def __getitem__(self, position: int) -> dict[str, Any]:
        which, i = self.select[position].tolist()
        return read_item(self.sets[which], i, self.prepare)

    @cached_property
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`, a hash of every image of the sets; computed once."""
        return np.concatenate([images.contents() for images in self.sets])

    def pairs(self) -> list[tuple[str, int]]:
        """(dataset, index) of every item, in order; unique over the stream."""
        return [self._pair(which, i) for which, i in self.select.tolist()]

    def share(self, rank: int, world_size: int) -> EvaluationStream:
        """Every `world_size`-th item, starting at `rank`.

        The shares of all ranks are disjoint and cover the stream. A share may be empty.
        """
        return self.only(self.select[rank::world_size])

    def without(self, pairs: set[tuple[str, int]]) -> EvaluationStream:
        """The items whose (dataset, index) is not in `pairs`."""
        return self.only(self.select[~self.among(pairs)])

    def among(self, pairs: Set[tuple[str, int]]) -> NDArray[np.bool_]:
        """`(len(self),)`, whether the (dataset, index) of an item is in `pairs`."""
        members = (self._pair(which, i) in pairs for which, i in self.select.tolist())
        return np.fromiter(members, dtype=bool, count=len(self))

    def only(self, select: NDArray[np.int64]) -> EvaluationStream:
        """The stream of some rows of `select`."""
        return EvaluationStream(self.sets, self.prepare, select, self.on_error)

    def _pair(self, which: int, i: int) -> tuple[str, int]:
        return self.sets[which].name, self.sets[which].indices[i]
