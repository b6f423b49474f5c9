"""An image that enters a detector and the scored row that leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffguard.engine.recipe import Reconstruction
from diffguard.score_table.rows import ScoreRow


@dataclass
class Item:
    """An image to score.

    Attributes:
        image: `(C, H, W)` in [0, 1], of the detector's working size.
        label: True class of an ID image, -1 for OOD or unknown.
        dataset: Name of its set.
        index: Place in the set, 0-based.
        path: Where it came from.
        error: Why it could not be read; then `image` is not used.
    """

    image: Tensor
    label: int = -1
    dataset: str = "images"
    index: int = 0
    path: str = ""
    error: str = ""


@dataclass
class Scored:
    """A scored image.

    Attributes:
        item: The image.
        row: Its row of the score table.
        reconstruction: What the comparison was made with; None for an unreadable image, and for one
            that skipped the diffusion model.
    """

    item: Item
    row: ScoreRow
    reconstruction: Reconstruction | None


def items_of(batch: Mapping[str, Any]) -> list[Item]:
    """The items of a batch of `datamodules`."""
    return [
        Item(
            image=batch["image"][row],
            label=int(batch["label"][row]),
            dataset=batch["dataset"][row],
            index=int(batch["index"][row]),
            path=batch["path"][row],
            error=batch["error"][row],
        )
        for row in range(len(batch["dataset"]))
    ]


def readable(batches: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of batches, without the images that could not be read."""
    for batch in batches:
        mask = torch.tensor([not error for error in batch["error"]])
        if mask.any():
            yield batch["image"][mask], batch["label"][mask]
