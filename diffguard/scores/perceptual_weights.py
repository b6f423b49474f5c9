"""Weights of the perceptual distances: a local file, torchvision's cache, or a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from diffguard.errors import UserError
from diffguard.scores.backbones import TAPS, Net
from diffguard.storage.paths import user_path
from diffguard.storage.weights import load_tensors, state_dict_of

Weights = str | Path | Mapping[str, Tensor] | None
"""A weights file, a folder that holds torchvision's files, a state dict, or None for the cache."""

_CHECKPOINTS: dict[Net, str] = {
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
    "alexnet": "AlexNet_Weights.IMAGENET1K_V1",
}


def load_features(net: Net, weights: Weights = None, *, download: bool = False) -> nn.Sequential:
    """Build the frozen convolutional part of an ImageNet network.

    Args:
        net: "vgg16" or "alexnet".
        weights: A file (state dict, `.safetensors` or `.pth`), a folder that holds the file under
            torchvision's name, or a state dict; keys `features.N.weight` or `N.weight`. None looks
            in torchvision's cache.
        download: With `weights=None`, fetch the file if the cache lacks it.

    Returns:
        The layers up to the last ReLU, float32, without gradients.

    Raises:
        UserError: If there are no weights, or they cannot be read or do not fit.
    """
    # Importing torchvision takes seconds, and few detectors need it here.
    from torchvision import models

    with torch.device("meta"):  # weights that are replaced need no memory and no random numbers
        layers = getattr(models, net)(weights=None).features[: TAPS[net][-1] + 1]
    source = weights if isinstance(weights, Mapping) else _read(net, weights, download)
    full = {k.removeprefix("features."): v for k, v in source.items() if k.startswith("features.")}
    state = full or source
    for key, expected in layers.state_dict().items():
        shape = tuple(state[key].shape) if key in state else "nothing"
        if shape != tuple(expected.shape):
            place = "of the given state dict" if isinstance(weights, Mapping) else weights
            raise UserError(
                f"perceptual weights {place or 'in the torchvision cache'} do not fit {net}: "
                f"'features.{key}' should have shape {tuple(expected.shape)}, got {shape}; "
                f"give torchvision's {net} state dict"
            )
    values = {key: state[key].detach().float() for key in layers.state_dict()}
    layers.load_state_dict(values, assign=True)
    return layers.requires_grad_(False).eval()


def _read(net: Net, weights: str | Path | None, download: bool) -> Mapping[str, Tensor]:
    """Read the state dict from a file, a folder or torchvision's cache; see `load_features`."""
    from torchvision.models import get_weight

    url = get_weight(_CHECKPOINTS[net]).url
    name = url.rsplit("/", 1)[-1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if weights is not None:
        folder = user_path(weights, "perceptual_weights")
    path = folder / name if weights is None or folder.is_dir() else folder
    if not path.is_file():
        if weights is None and download:
            return _fetch(url)
        raise UserError(
            f"no {net} weights for the perceptual distance: looked for {path}; set "
            f"detector.perceptual_weights to torchvision's {name} (or a folder that holds it)"
        )
    return state_dict_of(load_tensors(path), path)


def _fetch(url: str) -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {url} ({error}): set detector.perceptual_weights to a local copy"
        ) from error


def shipped(name: str) -> dict[str, Tensor]:
    """The learned weights of LPIPS and DISTS that ship with torchmetrics."""
    import torchmetrics

    path = Path(torchmetrics.__file__).parent / "functional" / "image" / name
    return torch.load(path, map_location="cpu", weights_only=True)  # stored from a GPU
