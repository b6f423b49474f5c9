"""Whether a diffusion model reconstructs ID images well enough to judge images by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# At least this share of the reconstructions keeps the predicted class.
_LEAST_KEPT = 0.7
# At least this share of comparisons finds a reconstruction nearer to its own image; chance is 0.5.
_LEAST_RESEMBLING = 0.9


@dataclass(frozen=True)
class ReconstructionQuality:
    """How ID validation images are reconstructed.

    Attributes:
        images: Number of images that were reconstructed.
        label_kept: Share of the reconstructions with the predicted class of their image, in [0, 1].
        resemblance: Share of all pairs of an image and another one in which the reconstruction of
            the image is nearer to the image, in [0, 1]; chance is 0.5.

    Example:
        >>> quality = ReconstructionQuality(64, label_kept=0.98, resemblance=0.6)
        >>> quality.is_sound
        False
    """

    images: int
    label_kept: float
    resemblance: float

    @property
    def is_sound(self) -> bool:
        """Whether images can be judged by their reconstructions."""
        return self.label_kept >= _LEAST_KEPT and self.resemblance >= _LEAST_RESEMBLING

    def __str__(self) -> str:
        return (
            f"of {self.images} ID validation images, {self.label_kept:.0%} keep their predicted "
            f"class in the reconstruction (expected at least {_LEAST_KEPT:.0%}), and a "
            f"reconstruction is nearer to its own image than to another one in "
            f"{self.resemblance:.0%} of all pairs (expected at least {_LEAST_RESEMBLING:.0%})"
        )


def resemblance(images: Tensor, reconstructions: Tensor) -> float:
    """How often a reconstruction is nearer to its own image than to another one.

    Args:
        images: `(N, C, H, W)`, two or more.
        reconstructions: `(N, C, H, W)`.

    Returns:
        The share of all ordered pairs of different images, in [0, 1]; ties count half.
    """
    flat = images.flatten(1).double(), reconstructions.flatten(1).double()
    distances = torch.cdist(flat[1], flat[0])
    to_self = distances.diagonal().unsqueeze(1)
    wins = (to_self < distances).double() + 0.5 * (to_self == distances).double()
    wins.fill_diagonal_(0.0)
    return float(wins.sum() / max(1, len(images) * (len(images) - 1)))
