"""Distances between images by name; higher = more different.

Image distances take `(N, C, H, W)` in [0, 1], gray or RGB. Distances of the protected classifier
take its logits or features, which the caller computes once for all distances and passes in `Views`.
Results are `(N,)`, float32, or float64 for float64 input; rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffguard.errors import UserError
from diffguard.scores.distance_names import DistanceSpec, Needs
from diffguard.scores.formulas import (
    dists_statistics,
    feature_cosine,
    gmsd,
    l1,
    l2,
    logits_l1,
    ms_ssim,
    pool_features,
    psnr_distance,
    ssim,
    ssim_reflect,
)


@dataclass(frozen=True)
class Views:
    """A batch of images with the classifier's outputs that distances compare.

    Attributes:
        images: `(N, C, H, W)` in [0, 1].
        logits: `(N, K)` of the protected classifier, if a distance needs them.
        features: `(N, D)` of its penultimate layer, if a distance needs them.
        layers: Outputs of named layers, pooled by `pool_features` or not.
    """

    images: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)


# Formulas of the distances that need no ImageNet network.
FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "psnr": psnr_distance,
    "ssim": ssim,
    "ssim_reflect": ssim_reflect,
    "ms_ssim": ms_ssim,
    "gmsd": gmsd,
    "dists_statistics": dists_statistics,
    "logits_l1": logits_l1,
    "feature_l2": l2,
    "feature_cosine": feature_cosine,
}


class Distance(nn.Module):
    """A named distance, made by `build_distance`; it has a network only if the name needs one.

    Attributes:
        name: Its name in full, such as "dists" or "feature_cosine@layer2.1".
        needs: The field of `Views` that it compares: "images", "logits", "features" or "layer".
        layer: The key in `Views.layers`, if `needs` is "layer".
    """

    def __init__(
        self, name: str, spec: DistanceSpec, layer: str | None, function: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.name = name
        self.needs: Needs = spec.needs if layer is None else "layer"
        self.layer = layer
        self.perfect = spec.perfect
        self.function = function

    def forward(self, a: Views, b: Views) -> Tensor:
        """Distance `(N,)` of two views, higher = more different."""
        return self.compare(self._select(a), self._select(b))

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance `(N,)` of two tensors of the kind that `needs` names.

        Raises:
            UserError: If the shapes differ, a distance of images gets something else, or the images
                are too small.
        """
        if a.shape != b.shape:
            raise UserError(
                f"{self.name} compares tensors of one shape, got {tuple(a.shape)} and "
                f"{tuple(b.shape)}: resize or convert the channels of one of them"
            )
        if self.needs == "images" and (a.ndim != 4 or a.shape[1] not in (1, 3)):
            raise UserError(
                f"{self.name} compares images (N, C, H, W) with C = 1 or 3, got {tuple(a.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        # Half precision would lose small differences of large numbers.
        with torch.autocast(a.device.type, enabled=False):
            return self.function(a.to(dtype), b.to(dtype)).to(dtype)

    def quality(self, a: Views, b: Views) -> Tensor:
        """The comparison as a quality `(N,)`, higher = more alike.

        This is PSNR in dB (at most 100), SSIM, MS-SSIM, 1 - DISTS or the cosine, and minus the
        distance for the others.
        """
        return self.perfect - self(a, b)

    def _select(self, view: Views) -> Tensor:
        if self.needs == "layer":
            output = view.layers.get(str(self.layer))
            value = None if output is None else pool_features(output)
        else:
            value = getattr(view, self.needs)
        if value is None:
            missing = f"layer {self.layer!r}" if self.needs == "layer" else self.needs
            raise UserError(f"distance {self.name} needs {missing}, but the views hold none")
        return value
