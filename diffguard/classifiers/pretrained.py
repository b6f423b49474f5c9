"""Pre-trained networks of torchvision and timm; used if a config sets `pretrained: true`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from diffguard.classifiers.layers import find_head
from diffguard.classifiers.library import (
    timm_config,
    timm_model,
    torchvision_model,
    torchvision_weights,
)
from diffguard.errors import UserError, reason_of

if TYPE_CHECKING:
    from diffguard.classifiers.spec import ClassifierSpec

# Names of the heads of GoogLeNet and Inception that only training uses.
_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")
# File names of weights in a timm repository.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def pretrained_network(spec: ClassifierSpec, *, new_head: bool) -> nn.Module:
    """A network with the weights that its library publishes, downloaded if they are not cached.

    Args:
        spec: What to build, `torchvision/…` or `timm/…`.
        new_head: Whether a network with another number of classes gets a new, random last layer.

    Raises:
        UserError: If there are no weights, they cannot be downloaded, or they have other classes.
    """
    library, _, name = spec.arch.partition("/")
    if library not in ("torchvision", "timm"):
        raise UserError(
            f"classifier.pretrained needs a torchvision/ or timm/ model, not {spec.arch}: "
            "give its weights in classifier.ckpt"
        )
    classes = _published_classes(library, name)
    if classes != spec.num_classes and not new_head:
        raise UserError(
            f"the pre-trained {spec.arch} has {classes} classes, but the data {spec.num_classes}: "
            f"name its {classes} classes in data.class_names, add classifier to stages, which "
            "trains a new last layer, or give your own weights in classifier.ckpt"
        )
    try:
        if library == "torchvision":
            return _from_torchvision(spec, name, classes)
        import timm

        _ask_hub(name, spec.kwargs)
        return timm.create_model(
            timm_model(name),
            pretrained=True,
            num_classes=spec.num_classes,
            in_chans=spec.channels,
            **spec.kwargs,
        )
    except UserError:
        raise
    except Exception as error:
        # Every library below raises its own types when a download fails.
        raise UserError(
            f"the pre-trained weights of {spec.arch} are not available ({reason_of(error)}): "
            "connect to the network, or give a file with them in classifier.ckpt"
        ) from error


def _ask_hub(name: str, kwargs: Mapping[str, Any]) -> None:
    """Fail at once if the hub cannot be reached: timm would retry for most of a minute."""
    import huggingface_hub as hub

    repository = getattr(timm_config(name), "hf_hub_id", None)
    # The arguments may name another source of the weights.
    if repository is None or any(key.startswith("pretrained_cfg") for key in kwargs):
        return
    cached = (hub.try_to_load_from_cache(repository, file) for file in _HUB_FILES)
    if not any(isinstance(path, str) for path in cached):
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, "config.json"), timeout=10)


def _published_classes(library: str, name: str) -> int:
    if library == "torchvision":
        categories = torchvision_weights(name).meta["categories"]
        if not categories:
            raise UserError(
                f"the weights torchvision/{name} have no last layer: take others of this network"
            )
        return len(categories)
    published = timm_config(name)
    if published is None or not published.has_weights:
        raise UserError(f"timm publishes no weights of {name}: give yours in classifier.ckpt")
    return published.num_classes


def _from_torchvision(spec: ClassifierSpec, name: str, classes: int) -> nn.Module:
    import torchvision

    # Published weights have auxiliary heads, and torchvision refuses to load them without.
    drops_heads = spec.kwargs.get("aux_logits") is False
    kwargs = {k: v for k, v in spec.kwargs.items() if not (drops_heads and k == "aux_logits")}
    network = torchvision.models.get_model(
        torchvision_model(name), weights=torchvision_weights(name), **kwargs
    )
    if drops_heads:
        network.aux_logits = False
        for part in _AUXILIARY_HEADS:
            if hasattr(network, part):
                setattr(network, part, None)
    if classes != spec.num_classes:
        _replace_head(network, classes, spec.num_classes)
    return network


def _replace_head(network: nn.Module, classes: int, num_classes: int) -> None:
    name = find_head(network, classes)
    old = network.get_submodule(name)
    if isinstance(old, nn.Conv2d):
        new: nn.Module = nn.Conv2d(old.in_channels, num_classes, 1, bias=old.bias is not None)
    else:
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)  # type: ignore[arg-type]
    network.set_submodule(name, new)
    if hasattr(network, "num_classes"):
        network.num_classes = num_classes  # type: ignore[assignment]
