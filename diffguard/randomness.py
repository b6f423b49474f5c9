"""Randomness that depends on a seed and on content, not on the name or place of an image."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch


def image_generator(seed: int, *parts: object) -> torch.Generator:
    """A generator for one image and use, independent of all other images.

    Args:
        seed: The run's seed.
        parts: Everything that identifies the image and the use, such as a key and a step.

    Returns:
        A CPU generator seeded by a hash of all of them.
    """
    text = "\x1f".join(str(part) for part in (seed, *parts))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def shuffled(items: Sequence[int], seed: int) -> list[int]:
    """Shuffle distinct numbers; the order depends on the seed alone, in every Python version."""
    rng = random.Random(seed)
    rank = {item: rng.random() for item in items}
    return sorted(items, key=rank.__getitem__)


def choice(total: int, count: int) -> list[int]:
    """At most `count` of the positions 0 … `total` - 1, sorted; always the same ones."""
    positions = range(total)
    return list(positions) if count >= total else sorted(shuffled(positions, seed=0)[:count])
