"""Randomness that belongs to an image, not to its name or place."""

from __future__ import annotations

import hashlib

import torch


def image_generator(seed: int, *parts: object) -> torch.Generator:
    """A generator that belongs to one image (and step), whatever its neighbours.

    Args:
        seed: The run's seed.
        parts: What names the image and the use: set, key, step, …

    Returns:
        A CPU generator seeded by a hash of all of them.
    """
    text = "\x1f".join(str(part) for part in (seed, *parts))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
