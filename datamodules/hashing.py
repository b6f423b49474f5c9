"""Hashes of image files, which show whether two are the same."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from datamodules.image_set import content_hash
from diffguard.storage.reading import open_regular

# Bytes that are hashed at once, and how often.
_PART, _MOST_PARTS = 2**20, 2**10


def file_hash(path: Path) -> int:
    """A hash of the first GiB of a file, which no image exceeds; -1 if it is unreadable."""
    try:
        # The size and times of a file are not enough, because copying may preserve them.
        with open_regular(path) as file:
            return content_hash(islice(iter(lambda: file.read(_PART), b""), _MOST_PARTS))
    except (OSError, ValueError):
        return -1
