"""Images as the networks take them: one evaluation stream over all sets, and the training images.

An image that cannot be read becomes an item with an `error` text, because a loader's worker process
would bury an exception in its traceback; `ImageLoader` raises it in the main process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from multiprocessing.connection import Listener
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Prepare
from datamodules.image_set import ImageSet
from diffguard.errors import UserError

OnError = Literal["stop", "skip"]


def check_sockets() -> None:
    """Make sure that worker processes can hand over what they have read.

    They use sockets in the folder for temporary files. The system limits the length of a socket's
    path to about 100 characters; a loader would wait forever for a worker without a socket.

    Raises:
        UserError: If no socket can be made.
    """
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise UserError(
            "data.num_workers above 0 needs sockets in the folder for temporary files, "
            f"{tempfile.gettempdir()}, which failed ({error}): set TMPDIR to a folder with a short "
            "path, or data.num_workers to 0"
        ) from error


class EvaluationStream(Dataset[dict[str, Any]]):
    """The concatenation of data sets, or a selection of it, prepared to the working size.

    Items are `{image (C, H, W), label, dataset, index, path, error}`; where `error` is not
    empty, the image is black and must not be scored.

    Args:
        sets: Data sets with different names.
        prepare: Brings an image to the working size.
        select: `(N, 2)` int64, the items as (number of the set, position in it); default: all, in
            order.
        on_error: What `ImageLoader` does with an unreadable image: `stop` raises, `skip` hands its
            row on with the error text.
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
        return _read(self.sets[which], i, self.prepare)

    @cached_property
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`, a hash of every image of the sets; read once, though a stream has many users."""
        return np.concatenate([images.contents() for images in self.sets])

    def pairs(self) -> list[tuple[str, int]]:
        """(dataset, index) of every item, in order; unique over the stream."""
        return [self._pair(which, i) for which, i in self.select.tolist()]

    def share(self, rank: int, world_size: int) -> EvaluationStream:
        """Every `world_size`-th item from `rank` on: disjoint, together all, possibly empty."""
        return self.only(self.select[rank::world_size])

    def without(self, done: set[tuple[str, int]]) -> EvaluationStream:
        """The items whose (dataset, index) is not in `done`."""
        return self.only(self.select[~self.among(done)])

    def among(self, done: set[tuple[str, int]]) -> NDArray[np.bool_]:
        """`(len(self),)`, whether an item's (dataset, index) is in `done`."""
        found = (self._pair(which, i) in done for which, i in self.select.tolist())
        return np.fromiter(found, dtype=bool, count=len(self))

    def only(self, select: NDArray[np.int64]) -> EvaluationStream:
        """The stream of a part of `select`."""
        return EvaluationStream(self.sets, self.prepare, select, self.on_error)

    def _pair(self, which: int, i: int) -> tuple[str, int]:
        return self.sets[which].name, self.sets[which].indices[i]


def mixed_seed(seed: int, epoch: int, place: int) -> int:
    """A seed for what is random at one place in one epoch."""
    # The primes keep neighbouring seeds, epochs and places apart.
    return ((seed * 1_000_003 + epoch) * 10_000_019 + place) % 2**63


class ImageLoader(DataLoader):
    """A `DataLoader` of streams that raises the error of an unreadable image as it was told."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            errors = [error for error in batch["error"] if error]
            if errors and self.dataset.on_error == "stop":
                raise UserError(errors[0])
            yield batch


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items -> a batch.

    Returns:
        `image` float32 `(N, C, H, W)` in [0, 1], `label` and `index` int64 `(N,)`, and `dataset`,
        `path` and `error` as lists of text.
    """
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    batch["image"] = torch.stack(batch["image"])
    batch["label"] = torch.tensor(batch["label"])
    batch["index"] = torch.tensor(batch["index"])
    return batch


def _read(images: ImageSet, position: int, prepare: Prepare) -> dict[str, Any]:
    item = images.describe(position)
    try:
        image, error = prepare(images.image(item["index"])), ""
    except UserError as failure:
        image, error = prepare.blank(), str(failure)
    return {"image": image, **item, "error": error}
