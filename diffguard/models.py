"""Classifiers from what a config or a checkpoint says of them.

A checkpoint may name classes, but only those of libraries that are trusted here are built; any
other must be named again by the user.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from diffguard.classifiers import Classifier
from diffguard.errors import UserError, reason_of
from diffguard.images import Interpolation
from diffguard.networks import SmallCNN
from diffguard.networks_openood import openood_network
from diffguard.preprocessing import published_preprocessing
from diffguard.pretrained_classifiers import pretrained_network

_TRUSTED = ("diffguard.", "torchvision.", "timm.", "diffusers.", "torch.nn.")


@dataclass
class ClassifierSpec:
    """What a classifier is, apart from its weights.

    Attributes:
        arch: `small_cnn`, `torchvision/NAME`, `timm/NAME`, `openood/NAME`, or the import path of a
            module class.
        num_classes: Number K of classes.
        kwargs: Further arguments of the constructor.
        channels: Channels that the network takes, 1 or 3.
        size: `[height, width]` that the network takes; None is what it was published with (with
            `resize`), or leaves images where nothing is known.
        resize: Side to which images are resized before `size` is cut out of their centre; None
            beside a given `size` resizes to that without a crop.
        interpolation: `bilinear` or `bicubic`; None is what it was published with.
        mean: Mean per channel; None is what it was published with.
        std: Standard deviation per channel; None is what it was published with.
        feature_layer: Layer whose input is the features; None is the last layer.
        cam_layer: Layer for Grad-CAM; None is found, see `find_cam_layer`.
        class_names: Names of the classes; None numbers them.
    """

    arch: str
    num_classes: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    size: list[int] | None = None
    resize: int | None = None
    interpolation: Interpolation | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    feature_layer: str | None = None
    cam_layer: str | None = None
    class_names: list[str] | None = None


def resolve_spec(spec: ClassifierSpec) -> ClassifierSpec:
    """The spec with what its architecture was published with, where it says nothing itself.

    Raises:
        UserError: For an architecture that its library does not know.
    """
    own = published_preprocessing(spec.arch, spec.kwargs, spec.num_classes, spec.channels)
    size, resize = spec.size, spec.resize
    if size is None and own.size is not None:
        size, resize = list(own.size), own.resize if resize is None else resize
    return replace(
        spec,
        size=size,
        resize=resize,
        interpolation=spec.interpolation or own.interpolation,
        mean=list(own.mean) if spec.mean is None else spec.mean,
        std=list(own.std) if spec.std is None else spec.std,
    )


def build_classifier(
    spec: ClassifierSpec,
    *,
    pretrained: bool = False,
    new_head: bool = False,
    trusted: Sequence[str] = (),
) -> Classifier:
    """Build a classifier with random weights, or the library's pre-trained ones.

    Args:
        spec: What to build.
        pretrained: Fetch pre-trained weights through torchvision or timm (may download).
        new_head: Whether a pre-trained network of other classes gets a new, random last layer.
        trusted: Import paths outside the known libraries that the user has named.

    Raises:
        UserError: For an architecture that cannot be built.
    """
    if spec.channels != 3 and spec.arch.startswith(("torchvision/", "openood/")):
        raise UserError(f"{spec.arch} takes 3 channels: set classifier.channels to 3")
    spec = resolve_spec(spec)
    mean, std = spec.mean or [0.0], spec.std or [1.0]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, spec.channels):
            raise UserError(
                f"classifier.{name} has {len(values)} values for {spec.channels} channels"
            )
    if spec.size is not None and len(spec.size) != 2:
        raise UserError(f"classifier.size must be [height, width], got {spec.size}")
    if pretrained:
        network = pretrained_network(spec, new_head=new_head)
    else:
        network = _build_network(spec, trusted)
    return Classifier(
        network,
        spec.num_classes,
        channels=spec.channels,
        size=None if spec.size is None else (spec.size[0], spec.size[1]),
        resize=spec.resize,
        interpolation=spec.interpolation or "bilinear",
        mean=mean,
        std=std,
        feature_layer=spec.feature_layer,
        cam_layer=spec.cam_layer,
        class_names=spec.class_names,
    )


def _build_network(spec: ClassifierSpec, trusted: Sequence[str]) -> nn.Module:
    library, _, name = spec.arch.partition("/")
    classes: dict[str, Any] = {"num_classes": spec.num_classes}
    try:
        if library == "torchvision":
            import torchvision

            model = name.partition(".")[0]
            return torchvision.models.get_model(model, weights=None, **classes, **spec.kwargs)
        if library == "timm":
            import timm

            return timm.create_model(name, in_chans=spec.channels, **classes, **spec.kwargs)
        if library == "openood":
            return openood_network(name, **classes, **spec.kwargs)
        if spec.arch == "small_cnn":
            return SmallCNN(spec.num_classes, spec.channels, **spec.kwargs)
        cls = import_class(spec.arch, trusted)
        # A class of the user's may fix its classes, or name their number otherwise.
        parameters = inspect.signature(cls).parameters
        takes_classes = "num_classes" in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        return cls(**(classes if takes_classes else {}), **spec.kwargs)
    except UserError:
        raise
    except Exception as error:
        # Constructors of others raise what they like: TypeError, AssertionError, KeyError, …
        raise UserError(f"classifier {spec.arch} cannot be built: {reason_of(error)}") from error


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
