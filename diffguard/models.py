"""Classifiers from what a config or a checkpoint says of them.

A checkpoint may name classes, but only those of libraries that are trusted here are built; any
other must be named again by the user.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from diffguard.classifiers import Classifier
from diffguard.errors import UserError
from diffguard.networks import SmallCNN

_TRUSTED = ("diffguard.", "torchvision.", "timm.", "diffusers.", "torch.nn.")
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass
class ClassifierSpec:
    """What a classifier is, apart from its weights.

    Attributes:
        arch: `small_cnn`, `torchvision/NAME`, `timm/NAME`, or the import path of a module class.
        kwargs: Further arguments of the constructor.
        num_classes: Number K of classes.
        channels: Channels that the network takes, 1 or 3.
        size: `[height, width]` to which images are resized; None leaves them.
        mean: Mean per channel; None is that of the family.
        std: Standard deviation per channel; None is that of the family.
        feature_layer: Layer whose input is the features; None is the last linear layer.
        cam_layer: Layer for Grad-CAM; None is the last with feature maps.
        class_names: Names of the classes; None numbers them.
    """

    arch: str
    num_classes: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    size: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    feature_layer: str | None = None
    cam_layer: str | None = None
    class_names: list[str] | None = None


def build_classifier(
    spec: ClassifierSpec, *, pretrained: bool = False, trusted: Sequence[str] = ()
) -> Classifier:
    """Build a classifier with random weights, or the library's pre-trained ones.

    Args:
        spec: What to build.
        pretrained: Fetch pre-trained weights through torchvision or timm (may download).
        trusted: Import paths outside the known libraries that the user has named.

    Raises:
        UserError: For an architecture that cannot be built.
    """
    network, mean, std = _build_network(spec, pretrained=pretrained, trusted=trusted)
    mean, std = spec.mean or mean, spec.std or std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, spec.channels):
            raise UserError(
                f"classifier.{name} has {len(values)} values for {spec.channels} channels"
            )
    if spec.size is not None and len(spec.size) != 2:
        raise UserError(f"classifier.size must be [height, width], got {spec.size}")
    return Classifier(
        network,
        spec.num_classes,
        channels=spec.channels,
        size=None if spec.size is None else (spec.size[0], spec.size[1]),
        mean=mean,
        std=std,
        feature_layer=spec.feature_layer,
        cam_layer=spec.cam_layer,
        class_names=spec.class_names,
    )


def _build_network(
    spec: ClassifierSpec, *, pretrained: bool, trusted: Sequence[str]
) -> tuple[nn.Module, list[float], list[float]]:
    """The network, and the mean and standard deviation of its family."""
    library, _, name = spec.arch.rpartition("/")
    try:
        if library == "torchvision":
            import torchvision

            if spec.channels != 3:
                raise UserError(f"{spec.arch} takes 3 channels: set classifier.channels to 3")
            weights = "DEFAULT" if pretrained else None
            # A pre-trained head has the classes that it was trained on.
            classes = {} if pretrained else {"num_classes": spec.num_classes}
            network = torchvision.models.get_model(name, weights=weights, **classes, **spec.kwargs)
            return network, _IMAGENET_MEAN, _IMAGENET_STD
        if library == "timm":
            import timm

            network = timm.create_model(
                name,
                pretrained=pretrained,
                num_classes=spec.num_classes,
                in_chans=spec.channels,
                **spec.kwargs,
            )
            data = timm.data.resolve_model_data_config(network)
            plain = spec.channels != 3
            return network, [0.5] if plain else [*data["mean"]], [0.5] if plain else [*data["std"]]
        if pretrained:
            raise UserError(
                f"classifier.pretrained needs a torchvision/ or timm/ model, not {spec.arch}: "
                "give its weights in classifier.ckpt"
            )
        if spec.arch == "small_cnn":
            network = SmallCNN(spec.num_classes, spec.channels, **spec.kwargs)
            return network, [0.0], [1.0]
        network = import_class(spec.arch, trusted)(num_classes=spec.num_classes, **spec.kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"classifier {spec.arch} cannot be built: {reason}") from error
    return network, [0.0], [1.0]


def import_class(path: str, trusted: Sequence[str] = ()) -> type[nn.Module]:
    """Import a module class by its path.

    Raises:
        UserError: For a path that is not trusted, or names no `nn.Module`.
    """
    if not path.startswith(_TRUSTED) and path not in trusted:
        raise UserError(
            f"class {path!r} is named by a checkpoint but is no part of diffguard, torchvision, "
            f"timm, diffusers or torch.nn: if you trust it, say so with --trusted {path}"
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"class {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"{path!r} is no torch.nn.Module class")
    return found
