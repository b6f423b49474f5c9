"""Data sets of torchvision, read into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.image_set import MissingDataError

NAMES = ("CIFAR10", "CIFAR100", "SVHN", "MNIST", "FashionMNIST")


def load_tensors(
    name: str, part: str, root: Path, download: bool
) -> tuple[Tensor, Tensor, Sequence[str] | None]:
    """Read one part of a torchvision set.

    Args:
        name: One of `NAMES`.
        part: `train` or `test`.
        root: The folder of torchvision's data.
        download: Whether to download the set if it is absent.

    Returns:
        Images, uint8 `(N, C, H, W)`; labels, int64 `(N,)`; class names, if torchvision has them.

    Raises:
        MissingDataError: If the set is absent.
    """
    from torchvision import datasets

    split = {"split": part} if name == "SVHN" else {"train": part == "train"}
    try:
        data = getattr(datasets, name)(root, download=download, **split)
    except (RuntimeError, OSError) as error:
        raise MissingDataError(
            f"torchvision found no {name} in {str(root)!r} ({' '.join(str(error).split())})",
            "" if download else "set data.root, or pass --data.download true",
        ) from error
    pixels = torch.from_numpy(np.asarray(data.data))
    if pixels.ndim == 3:  # MNIST and FashionMNIST are (N, H, W)
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:  # CIFAR is (N, H, W, 3)
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(data.labels if name == "SVHN" else data.targets).long()
    return pixels, labels, getattr(data, "classes", None)
