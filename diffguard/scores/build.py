"""Builds distances by name; LPIPS and DISTS get their ImageNet network here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from diffguard.scores.backbones import TAPS, Net
from diffguard.scores.distance_names import find_distance
from diffguard.scores.distances import FORMULAS, Distance
from diffguard.scores.perceptual import DISTS, LPIPS
from diffguard.scores.perceptual_weights import Weights, load_features, shipped


def lpips(weights: Weights = None, *, net: Net = "vgg16", download: bool = False) -> LPIPS:
    """LPIPS on torchvision's network, with the learned weights that torchmetrics contains.

    Args:
        weights: Weights of the ImageNet network, see `perceptual_weights.load_features`.
        net: "vgg16" or "alexnet".
        download: Fetch torchvision's weights if its cache lacks them.

    Raises:
        UserError: If the weights are missing or do not fit.
    """
    backbone = load_features(net, weights, download=download)
    learned = shipped(f"lpips_models/{net.removesuffix('16').removesuffix('net')}.pth")
    heads = [learned[f"lin{stage}.model.1.weight"].flatten() for stage in range(len(TAPS[net]))]
    return LPIPS(backbone, heads, net=net)


def dists(weights: Weights = None, *, download: bool = False) -> DISTS:
    """DISTS on torchvision's VGG-16; see `lpips`."""
    backbone = load_features("vgg16", weights, download=download)
    learned = shipped("dists_models/weights.pt")
    return DISTS(backbone, learned["alpha"].flatten(), learned["beta"].flatten())


# Distances on an ImageNet network, by name.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dists": dists,
    "lpips": lpips,
    "lpips_alex": partial(lpips, net="alexnet"),
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
    formula = FORMULAS.get(name.partition("@")[0])
    function = formula or NETWORKS[name](weights, download=download)
    return Distance(name, spec, layer, function).eval()


def check_weights(names: Iterable[str], weights: Weights) -> None:
    """Refuse perceptual distances without weights; reads the weights of the others.

    Args:
        names: Names of distances.
        weights: See `build_distance`.

    Raises:
        UserError: Naming the file that is missing.
    """
    for name in names:
        if find_distance(name)[0].perceptual:
            build_distance(name, weights=weights)
