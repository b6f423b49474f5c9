"""Loading batches of images from a stream.

An unreadable image becomes an item with an `error` text, because an exception in a worker process
would bury its message in a traceback. `ImageLoader` raises the error in the main process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Listener
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from datamodules.augmentation import Prepare
from datamodules.image_set import ImageSet
from diffguard.errors import UserError


def check_sockets() -> None:
    """Make sure that worker processes can pass on what they have read.

    They use sockets in the folder for temporary files. The system limits the path of a socket to
    about 100 characters; without a socket, a loader would wait for its worker forever.

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


class ImageLoader(DataLoader):
    """A `DataLoader` of a stream; raises the error of an unreadable image unless it is skipped."""

    dataset: Any

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batch in super().__iter__():
            errors = [error for error in batch["error"] if error]
            if errors and self.dataset.on_error == "stop":
                raise UserError(errors[0])
            yield batch


class ShareSampler(DistributedSampler):
    """The items of one rank, in order and without repeats; a share may be empty.

    Lightning does not divide a loader again that has a distributed sampler.
    """

    dataset: Any

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack items into a batch.

    Returns:
        `image` float32 `(N, C, H, W)` in [0, 1], `label` and `index` int64 `(N,)`, and `dataset`,
        `path` and `error` as lists of strings.
    """
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    batch["image"] = torch.stack(batch["image"])
    batch["label"] = torch.tensor(batch["label"])
    batch["index"] = torch.tensor(batch["index"])
    return batch


def read_item(images: ImageSet, position: int, prepare: Prepare) -> dict[str, Any]:
    """Read and prepare one image of a set.

    Returns:
        `{image (C, H, W), label, dataset, index, path, error}`. If the image cannot be read,
        `error` holds the reason and `image` is black.
    """
    item = images.describe(position)
    try:
        image, error = prepare(images.image(item["index"])), ""
    except UserError as failure:
        image, error = prepare.blank(), str(failure)
    return {"image": image, **item, "error": error}
