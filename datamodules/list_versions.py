"""Whether an image list is that of OpenOOD v1.5, by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

ListVersion = Literal["OpenOOD v1.5", "differs", "unverified"]

# Benchmark and file name -> `list_hash`. Two public copies of these lists agree byte for byte.
# Public copies of the other lists exist, but were not compared.
_HASHES = {
    "cifar10/train_cifar10.txt": "cc0c13148b985343fdda86677735ed2c48c237d8076acc136db06c6d2256f7af",
    "cifar10/val_cifar10.txt": "f003250f1307f8d5c4a44065027f1c3a578ad92400264db0abb8ba8b5a1d8635",
    "cifar10/test_cifar10.txt": "2022987e126e7ae9a2b9f3bfbd7d1853c4d6826d34680427b8db4d7412f01537",
}


def list_hash(paths: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 (hex) of the sorted lines `path label` of a list; line endings do not matter."""
    lines = sorted(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_version(file: Path, paths: Sequence[str], labels: Sequence[int]) -> ListVersion:
    """Compare a list with the list of OpenOOD v1.5 that has the same name.

    Args:
        file: The list, `…/BENCHMARK/FILE`.
        paths: The relative path of each image.
        labels: The label of each image.

    Returns:
        `OpenOOD v1.5` if they are the same, `differs` if they are not, and `unverified` if the hash
        of OpenOOD's list is not known.
    """
    expected = _HASHES.get(f"{file.parent.name}/{file.name}")
    if expected is None:
        return "unverified"
    return "OpenOOD v1.5" if list_hash(paths, labels) == expected else "differs"
