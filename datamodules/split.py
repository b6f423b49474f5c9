"""Deterministic split of ID images into training, validation and test parts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

from datamodules.benchmark import PARTS
from datamodules.config import Part
from datamodules.image_set import ImageSet
from diffguard.errors import UserError


def cut_part(images: ImageSet, part: Part, shares: Sequence[float], name: str) -> ImageSet:
    """One of the three parts of a labeled set.

    Each class is split separately, in the order of a hash of the images' keys (in a folder, their
    paths). This order is the same on every machine, and adding images does not change it.

    Args:
        images: The whole set.
        part: The part.
        shares: Shares of training, validation and test images; their sum is 1.
        name: The part's name.

    Raises:
        UserError: If the part has no images.
    """
    of_class: dict[int, list[tuple[bytes, int]]] = {}
    for index, label in zip(images.indices, images.labels.tolist(), strict=True):
        digest = hashlib.sha256(images.key(index).encode("utf-8", "surrogateescape")).digest()
        of_class.setdefault(label, []).append((digest, index))
    place = PARTS.index(part)
    indices: list[int] = []
    for members in of_class.values():
        members.sort()
        begin, end = (round(sum(shares[:p]) * len(members)) for p in (place, place + 1))
        indices += [index for _, index in members[begin:end]]
    if not indices:
        raise UserError(
            f"the {part} part of data.id.all gets none of its {len(images)} images: check "
            "data.id.shares"
        )
    cut = copy.copy(images)
    cut.name, cut.indices = name, sorted(indices)
    return cut
