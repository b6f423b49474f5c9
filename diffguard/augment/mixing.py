r"""DiffuseMix (Islam et al., CVPR 2024): half of an image, half of its edit, and a fractal.

With a half mask $m$ and the weight $\lambda$ of the fractal $f$, the mixture of an image $x$ and
its edit $e$ is $(1-\lambda)\,(m\,x + (1-m)\,e) + \lambda f$. Both halves show the same content,
so the label stays that of the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms import v2

from diffguard.augment.settings import AugmentSettings
from diffguard.errors import UserError
from diffguard.images import pixel_key
from diffguard.randomness import image_generator

# The half that shows the original.
HALVES = ("left", "right", "top", "bottom")


def half_masks(height: int, width: int, seam: float) -> Tensor:
    """The share of the original in each pixel, for each of the four halves.

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        seam: Width in pixels over which the share falls linearly from 1 to 0, centered on the
            middle of the image; 0 cuts, and a pixel that the middle divides gets 0.5.

    Returns:
        `(4, height, width)` float32 in [0, 1], in the order of `HALVES`.

    Example:
        >>> half_masks(1, 4, seam=2.0)[0]
        tensor([[1.0000, 0.7500, 0.2500, 0.0000]])
    """
    left = _falling(width, seam).expand(height, width)
    top = _falling(height, seam)[:, None].expand(height, width)
    return torch.stack([left, 1 - left, top, 1 - top])


def _falling(length: int, seam: float) -> Tensor:
    before_middle = length / 2 - (torch.arange(length) + 0.5)
    if seam == 0:
        return (before_middle.sign() + 1) / 2
    return (before_middle / seam + 0.5).clamp(0, 1)


def mix(
    originals: Tensor, edits: Tensor, fractals: Tensor, masks: Tensor, fractal_weight: float
) -> Tensor:
    """The mixtures of images.

    Args:
        originals: `(N, C, H, W)` in [0, 1].
        edits: Edits of the same images, same shape and range.
        fractals: A fractal for each image, same shape and range.
        masks: `(N, H, W)` in [0, 1], the share of the original in each pixel.
        fractal_weight: Weight λ of the fractals, in [0, 1].

    Returns:
        `(N, C, H, W)` in [0, 1].
    """
    hybrids = torch.lerp(edits, originals, masks.unsqueeze(1).to(originals))
    return torch.lerp(hybrids, fractals, fractal_weight)


class DiffuseMix(v2.Transform):
    """Mixes images with their edits and with fractals; which half stays is drawn for each image.

    The draw depends on the seed and the pixels of the image alone, not on the batch or on a global
    generator. Use another seed in each epoch for other halves.

    Args:
        fractal_weight: Weight λ of the fractal, in [0, 1].
        seam: Width in pixels of the soft seam between the halves, at least 0.
        seed: Seed of the halves.

    Raises:
        UserError: For a value outside its range.
    """

    def __init__(
        self,
        fractal_weight: float = AugmentSettings.fractal_weight,
        seam: float = AugmentSettings.seam,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= fractal_weight <= 1:
            raise UserError(f"fractal_weight must be in [0, 1], got {fractal_weight:g}")
        if not 0 <= seam < math.inf:
            raise UserError(f"seam must be a number of pixels of at least 0, got {seam:g}")
        self.fractal_weight, self.seam, self.seed = fractal_weight, seam, seed

    def forward(
        self, original: Tensor, edit: Tensor, fractal: Tensor, halves: Tensor | None = None
    ) -> Tensor:
        """Mix one image or a batch, on the device of the original.

        Args:
            original: `(C, H, W)` or `(N, C, H, W)`, floating-point, in [0, 1].
            edit: Its edit, of the same shape.
            fractal: A fractal of the same shape.
            halves: int64 `(N,)`, the half of each image that shows the original, as a position in
                `HALVES`; None draws it.

        Returns:
            The mixtures, in the shape of `original`.

        Raises:
            UserError: For images of different shapes, or of integers.
        """
        if not original.shape == edit.shape == fractal.shape or original.ndim not in (3, 4):
            shapes = ", ".join(str(tuple(part.shape)) for part in (original, edit, fractal))
            raise UserError(
                f"original, edit and fractal must have one shape, (C, H, W) or (N, C, H, W), got "
                f"{shapes}: resize the edit and the fractal to the original"
            )
        if not all(part.is_floating_point() for part in (original, edit, fractal)):
            raise UserError(
                "original, edit and fractal must be floating-point numbers in [0, 1]: convert "
                "8-bit images with torchvision's v2.ToDtype(torch.float32, scale=True)"
            )
        if original.numel() == 0:
            return original
        height, width = original.shape[-2:]
        count = len(original) if original.ndim == 4 else 1
        shape = (count, -1, height, width)
        originals, edits, fractals = (part.reshape(shape) for part in (original, edit, fractal))
        if halves is None:
            halves = torch.stack([self._draw(image) for image in originals])
        masks = half_masks(height, width, self.seam)[halves.cpu()].to(original.device)
        mixtures = mix(originals, edits, fractals, masks, self.fractal_weight)
        return mixtures.reshape(original.shape)

    def _draw(self, image: Tensor) -> Tensor:
        generator = image_generator(self.seed, pixel_key(image), "half")
        return torch.randint(len(HALVES), (), generator=generator)
