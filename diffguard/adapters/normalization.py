"""Images that another library has normalized, brought back to [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffguard.errors import UserError

# Half precision normalizes with errors of this size.
_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Normalization:
    """The normalization `(image - mean) / std` of a loader; by default, it changes nothing.

    Attributes:
        mean: Mean of each channel, or one for all.
        std: Standard deviation of each channel, or one for all, above 0.
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise UserError(
                "mean and std must have a value per channel each, and std must be above 0, got "
                f"{list(self.mean)} and {list(self.std)}"
            )

    def undo(self, images: Tensor) -> Tensor:
        """Undo the normalization.

        Args:
            images: Normalized images, `(N, C, H, W)` or `(C, H, W)`.

        Returns:
            float32 of the same shape, in [0, 1].

        Raises:
            UserError: If the images have other channels, or are not in [0, 1] afterward, so that
                `mean` and `std` are not those of the loader.
        """
        if images.ndim not in (3, 4) or len(self.mean) not in (1, images.shape[-3]):
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit mean {list(self.mean)}: expected"
                " (N, C, H, W) with a mean and std for each channel"
            )
        mean, std = (images.new_tensor(v).float()[:, None, None] for v in (self.mean, self.std))
        result = images.float() * std + mean
        low, high = (float(value) for value in result.aminmax()) if len(result) else (0.0, 1.0)
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise UserError(
                f"images are in [{low:.3g}, {high:.3g}] after undoing the normalization with mean "
                f"{list(self.mean)} and std {list(self.std)}, expected [0, 1]: give the mean and "
                "std with which the loader normalizes"
            )
        return result.clamp(0, 1)


class OriginalImages(Dataset[tuple[Tensor, int]]):
    """The images of a normalized data set in [0, 1], with their labels.

    Args:
        data: A data set of normalized images `(C, H, W)` with labels.
        normalization: Its normalization.
        keys: Where an item has its image and its label.
    """

    def __init__(self, data: Any, normalization: Normalization, keys: tuple[Any, Any]) -> None:
        self.data, self.normalization, self.keys = data, normalization, keys

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.data[index]
        image, label = (item[key] for key in self.keys)
        return self.normalization.undo(torch.as_tensor(image)), int(label)
