"""Perceptual distances on one frozen ImageNet network: LPIPS and DISTS.

LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924) sums the squared differences of unit-length
feature vectors, weighted per channel. DISTS (Ding et al., TPAMI 2020, arXiv 2004.07728) compares
per-channel means ("texture") and covariances ("structure") of feature maps.

Both read the feature maps of torchvision's VGG-16, LPIPS also those of AlexNet. `scores/build.py`
builds them by name with their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.errors import UserError
from diffguard.images import convert_channels
from diffguard.scores.backbones import SMALLEST, TAPS, Net
from diffguard.scores.formulas import structure_map, texture_structure


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, a distance: 0 for equal images.

    Images are compared at their own size; nothing is resized.

    Args:
        backbone: The convolutional part of the ImageNet network, see
            `perceptual_weights.load_features`.
        heads: Learned weights `(C,)` of the channels of each stage.
        net: The network: "vgg16" (smallest image 16 px) or "alexnet" (31 px).
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, backbone: nn.Sequential, heads: Sequence[Tensor], *, net: Net = "vgg16"
    ) -> None:
        super().__init__()
        self.net = net
        self.backbone = backbone
        for stage, head in enumerate(heads):
            self.register_buffer(f"head{stage}", head)
        # The published constants, for images in [-1, 1].
        self._constant("shift", (-0.030, -0.088, -0.188))
        self._constant("scale", (0.458, 0.448, 0.450))
        self.eval()

    def _constant(self, name: str, values: Sequence[float]) -> None:
        self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-length feature maps of images `(N, 1 or 3, H, W)` in [0, 1], one per stage.

        Raises:
            UserError: If the images are too small for the network.
        """
        smallest = SMALLEST[self.net]
        if min(images.shape[-2:]) < smallest:
            raise UserError(
                f"LPIPS with {self.net} needs images of at least {smallest} px, got "
                f"{tuple(images.shape[-2:])}: use dists, ssim or another distance"
            )
        x = convert_channels(images, 3).to(self.shift.dtype)
        maps = _tapped(self.backbone, TAPS[self.net], (x * 2.0 - 1.0 - self.shift) / self.scale)
        return [m / (m.square().sum(1, keepdim=True) + 1e-8).sqrt() for m in maps]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance `(N,)` of two outputs of `features`."""
        total = a[0].new_zeros(a[0].shape[0])
        for stage, (fa, fb) in enumerate(zip(a, b, strict=True)):
            # A 1x1 convolution and the spatial mean commute, so the mean comes first.
            head = getattr(self, f"head{stage}")
            total = total + (head * (fa - fb).square().mean((2, 3))).sum(1)
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance `(N,)` of images `(N, 1 or 3, H, W)` in [0, 1]."""
        return self.compare(self.features(a), self.features(b))


class DISTS(nn.Module):
    """Deep image structure and texture similarity, as a distance: 0 for equal images.

    The network is VGG-16 with its max pooling replaced by L2 pooling, so that any size works.
    Images are compared at their own size; nothing is resized (the authors trained at 256 px).

    Args:
        backbone: The convolutional part of VGG-16, see `perceptual_weights.load_features`.
        alpha: Learned weights `(C,)` of the textures, with the channels of all stages in order.
        beta: Learned weights `(C,)` of the structures.
    """

    mean: Tensor
    std: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, backbone: nn.Sequential, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in backbone)
        )
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """Images `(N, 1 or 3, H, W)` in [0, 1] as RGB, followed by the feature maps of 5 stages."""
        x = convert_channels(images, 3).to(self.mean.dtype)
        return [x, *_tapped(self.backbone, TAPS["vgg16"], (x - self.mean) / self.std)]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance `(N,)` of two outputs of `features`."""
        channels = [m.shape[1] for m in a]
        weights = zip(self.alpha.split(channels), self.beta.split(channels), strict=True)
        total = a[0].new_zeros(a[0].shape[0])
        for fa, fb, (alpha, beta) in zip(a, b, weights, strict=True):
            total = total + texture_structure(fa, fb, alpha, beta)
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance `(N,)` of images `(N, 1 or 3, H, W)` in [0, 1]."""
        return self.compare(self.features(a), self.features(b))

    @torch.no_grad()
    def location(self, a: Tensor, b: Tensor) -> Tensor:
        """Where two images differ in structure.

        The mean of a map is the structure term of the distance. The texture term compares means
        over the whole image, so it has no location.

        Args:
            a: `(N, 1 or 3, H, W)` in [0, 1].
            b: Images of the same shape.

        Returns:
            `(N, H, W)`, at least 0; the maps of the stages are enlarged bilinearly and summed.
        """
        first, second = self.features(a), self.features(b)
        weights = self.beta.split([m.shape[1] for m in first])
        total = a.new_zeros(len(a), 1, *a.shape[2:], dtype=self.beta.dtype)
        for fa, fb, beta in zip(first, second, weights, strict=True):
            rest = structure_map(fa, fb, beta)[:, None]
            total += F.interpolate(rest, a.shape[2:], mode="bilinear", align_corners=False)
        return total.squeeze(1)


class L2Pool(nn.Module):
    """Root of the Hann-weighted 3x3 mean of squares, stride 2: pooling without aliasing."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(window, window)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N, C, ceil(H/2), ceil(W/2))`."""
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        pooled = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (pooled + 1e-12).sqrt()


def _tapped(layers: nn.Sequential, taps: Sequence[int], x: Tensor) -> list[Tensor]:
    """The outputs of `layers` at the indices `taps`."""
    outputs = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in taps:
            outputs.append(x)
    return outputs
