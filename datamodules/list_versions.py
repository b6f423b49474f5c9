"""Whether an image list is that of OpenOOD v1.5, by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

ListVersion = Literal["OpenOOD v1.5", "differs", "unverified"]

# Benchmark -> name of the list -> `list_hash`. Each list was rebuilt from a public copy. All but
# three were compared with a second copy: mnist/test_tin lists all images, and ImageNet's two
# validation lists agree and hold what the test lists leave out.
_HASHES = {
    "cifar10": {
        "train_cifar10": "cc0c13148b985343fdda86677735ed2c48c237d8076acc136db06c6d2256f7af",
        "val_cifar10": "f003250f1307f8d5c4a44065027f1c3a578ad92400264db0abb8ba8b5a1d8635",
        "test_cifar10": "2022987e126e7ae9a2b9f3bfbd7d1853c4d6826d34680427b8db4d7412f01537",
        "val_tin": "a1d8487a17aac56986bfaf0a32bf0baf35f0ccb4b8fe1e126c559c23ef534187",
        "test_cifar100": "410d386c4b271d23810f5ffefb228de148896f2a08ed007bf018bc9c3cc99dad",
        "test_tin": "1cde9f18bc6554a7742df85af2ece501127e545dd6e6b4972faaa1a17f1b8d46",
        "test_texture": "96aeac122d8f300765a44003d3d5e64557121ca622077934e2de218e8dbc8bf9",
    },
    "cifar100": {
        "train_cifar100": "50486e5eadbcfabc0f91d652c8c4ba4fd143e6d1b462df4daa7f3aef00b545a7",
        "val_cifar100": "1bd6da1e9c319fb93a3680ce5090789a19020cceb4e79a3e6440cec08bf91131",
        "test_cifar100": "5c6934d66001faada068c8db89643071aa4a8c82b02123fdda54c41f875a3546",
        "val_tin": "834fdc3a544bcadee9cfc88693ddbb0b4c546de2ca06898498e68a8e45a45bdd",
        "test_cifar10": "352dd98e85f2960921339ae8a9ef3c3cc5b7a165e2dab896650d7a822d5b591c",
        "test_tin": "83b7c5f21389b1459afb08f3b518d816be249cdfb70a7dff711593624d83a549",
    },
    "mnist": {
        "test_tin": "d1a1024cfa978dd72daf500a4133f14ef54ff62f7eff0f954f713809e85dc034",
    },
    "imagenet200": {
        "val_imagenet200": "dda1f438ccb66ba5a04e73f515d836037e9b8c970a723eaf2309c1385ebee9cb",
        "test_imagenet200": "1d4bb5c2311b02237734e788ec5d4bd5e7922281c0beda60392c40d2e1631d6b",
    },
    "imagenet": {
        "val_imagenet": "5bbae85782576369a302b1e1f4ef785dce9f5874d974ea4943234d966589577e",
        "test_imagenet": "61a583bf2190c8c9a0fcb971787125fb5c1d19f097356e20467819a16513865e",
        "test_textures": "9cf1ff7e97ce67ea61a8bb1ffc17bb845ae06e1d22bfebc74c3c0aa284a408c9",
    },
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
    expected = _HASHES.get(file.parent.name, {}).get(file.stem)
    if expected is None:
        return "unverified"
    return "OpenOOD v1.5" if list_hash(paths, labels) == expected else "differs"
