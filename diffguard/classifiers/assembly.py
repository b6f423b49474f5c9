"""A user's classifier in any form: a module, a `Classifier` or a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.rebuilding import named_spec, recognized_spec
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.classifiers.transforms import preprocessing_of
from diffguard.classifiers.weights import load_weights
from diffguard.errors import UserError
from diffguard.images import Interpolation
from diffguard.storage.paths import expand_home


class ClassifierOptions(TypedDict, total=False):
    """Preprocessing of a classifier that is a module, and what builds it again.

    Attributes:
        channels: Channels that it takes, 1 or 3; defaults to those of its first convolution.
        size: `(height, width)` that it takes. This and the next four override `preprocess`.
        resize: Side to which images are resized before the center of `size` is cut out; with a
            `size` alone, images are resized to it.
        interpolation: `bilinear` or `bicubic`.
        mean: Mean per channel.
        std: Standard deviation per channel.
        arch: What builds it again, as `ClassifierSpec.arch`; defaults to its class if `kwargs` are
            given. Networks of torchvision and timm are recognized without it.
        kwargs: Further arguments of its constructor.
    """

    channels: int
    size: tuple[int, int]
    resize: int
    interpolation: Interpolation
    mean: Sequence[float]
    std: Sequence[float]
    arch: str
    kwargs: Mapping[str, Any]


def assembled_classifier(
    classifier: nn.Module | ClassifierSpec,
    weights: str | Path | None,
    arguments: Mapping[str, Any],
    options: ClassifierOptions,
) -> tuple[Classifier, ClassifierSpec | None]:
    """A user's classifier in any form, and its spec if it can be built again.

    Args:
        classifier: A module, a `Classifier`, or a spec.
        weights: Weights of a spec, see `built_classifier`.
        arguments: The arguments of `wrapped_classifier` by name; None if one is left out.
        options: Further ones; see `ClassifierOptions`.

    Raises:
        UserError: For arguments that do not apply, and as the other functions.
    """
    if unknown := sorted(set(options) - set(ClassifierOptions.__annotations__)):
        names = ", ".join(ClassifierOptions.__annotations__)
        raise UserError(f"{unknown[0]!r} is not an argument; further ones are {names}")
    if weights is not None and not isinstance(classifier, ClassifierSpec):
        raise UserError("weights are for a ClassifierSpec: a module has its own, leave them out")
    if isinstance(classifier, Classifier | ClassifierSpec):
        rebuilds = {"arch", "kwargs"} if isinstance(classifier, Classifier) else set()
        idle = [name for name, value in arguments.items() if value is not None]
        idle += [name for name in options if name not in rebuilds]
        if idle:
            raise UserError(
                f"{idle[0]} is for a plain module: a {type(classifier).__name__} defines it already"
            )
    if isinstance(classifier, ClassifierSpec):
        return built_classifier(classifier, weights)
    if isinstance(classifier, Classifier):
        return classifier, _spec_of(classifier, options)
    if not isinstance(classifier, nn.Module):
        raise UserError(
            f"a classifier must be a torch.nn.Module or a ClassifierSpec, got "
            f"{type(classifier).__name__}"
        )
    return wrapped_classifier(classifier, **arguments, options=options)


def wrapped_classifier(
    network: nn.Module,
    *,
    preprocess: Any,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    feature_layer: str | None,
    cam_layer: str | None,
    options: ClassifierOptions,
) -> tuple[Classifier, ClassifierSpec | None]:
    """A user's module as a classifier, and its spec if it can be built again.

    Raises:
        UserError: For a preprocessing that is not understood, an unknown number of classes or
            channels, or layers that are not found.
    """
    if class_names is None and num_classes is None:
        raise UserError("the number of classes is unknown: give class_names or num_classes")
    values = asdict(preprocessing_of(preprocess))
    if "size" in options:
        values["resize"] = None
    values |= {name: value for name, value in options.items() if name in values}
    classifier = Classifier(
        network,
        len(class_names or ()) if num_classes is None else num_classes,
        channels=options.get("channels") or _channels(network),
        feature_layer=feature_layer,
        cam_layer=cam_layer,
        class_names=class_names,
        **values,
    )
    return classifier, _spec_of(classifier, options)


def built_classifier(
    spec: ClassifierSpec, weights: str | Path | None
) -> tuple[Classifier, ClassifierSpec]:
    """The classifier of a spec with weights from a file, or the published ones.

    Args:
        spec: The spec.
        weights: A file, or `pretrained` for those of torchvision or timm (may download).

    Raises:
        UserError: If no weights are named, or they do not fit.
    """
    if weights is None:
        raise UserError(
            "a ClassifierSpec has no weights: give a file as weights, or weights='pretrained' for "
            "those that torchvision or timm publish"
        )
    spec = resolve_spec(spec)
    if weights == "pretrained":
        return build_classifier(spec, pretrained=True), spec
    classifier = build_classifier(spec, trusted=[spec.arch])
    load_weights(classifier, expand_home(str(weights), "weights"), spec.arch)
    return classifier, spec


def _channels(network: nn.Module) -> int:
    """Channels of the images that a network takes."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    channels = convolutions[0].in_channels if convolutions else None
    if channels not in (1, 3):
        raise UserError("the classifier's number of channels is unknown: give channels, 1 or 3")
    return channels


def _spec_of(classifier: Classifier, options: ClassifierOptions) -> ClassifierSpec | None:
    """The spec of a module; None if nothing states how it is built."""
    spec = ClassifierSpec(
        arch="",
        num_classes=classifier.num_classes,
        channels=classifier.channels,
        size=None if classifier.size is None else list(classifier.size),
        resize=classifier.resize,
        interpolation=classifier.interpolation,
        mean=classifier.mean.flatten().tolist(),
        std=classifier.std.flatten().tolist(),
        feature_layer=classifier.feature_layer,
        cam_layer=classifier.cam_layer,
        class_names=list(classifier.class_names),
    )
    if "arch" in options or "kwargs" in options:
        arch, kwargs = options.get("arch"), options.get("kwargs", {})
        return named_spec(classifier.network, spec, arch, kwargs)
    return recognized_spec(classifier.network, spec)
