"""Builds distances by name; LPIPS and DISTS get their ImageNet network here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from diffguard.scores.distances import Distance, find_distance
from diffguard.scores.perceptual import DISTS, LPIPS
from diffguard.scores.perceptual_weights import Weights

# Distances on an ImageNet network: `(weights, download) -> module`.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dists": DISTS,
    "lpips": LPIPS,
    "lpips_alex": partial(LPIPS, net="alexnet"),
}


def build_distance(name: str, *, weights: Weights = None, download: bool = False) -> Distance:
    """Build a distance by name.

    Args:
        name: A key of `DISTANCES`; `feature_l2` and `feature_cosine` also take a layer of the
            classifier, as in `feature_cosine@layer2.1`.
        weights: For `lpips`, `lpips_alex` and `dists`: see `perceptual_weights.load_features`.
        download: Fetch these weights if torchvision's cache lacks them.

    Raises:
        UserError: For an unknown name, or missing weights.

    Example:
        >>> import torch
        >>> distance = build_distance("l2")
        >>> distance.compare(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([2.])
    """
    spec, layer = find_distance(name)
    function = spec.function or NETWORKS[name](weights, download=download)
    return Distance(name, spec, layer, function).eval()
