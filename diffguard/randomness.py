"""Randomness that depends on an image, not on its name or place."""

from __future__ import annotations

import hashlib

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
