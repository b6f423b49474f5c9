"""Builds classifiers from a config or a checkpoint.

Only classes of trusted libraries are built from a checkpoint; the user must name any other class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.library import timm_model, torchvision_model
from diffguard.classifiers.openood import openood_network
from diffguard.classifiers.pretrained import pretrained_network
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.classifiers.whitened import WhitenedCNN
from diffguard.errors import UserError, reason_of
from diffguard.storage.arguments import check_arguments, consented
from diffguard.storage.rebuilding import first_difference
from diffguard.storage.sizes import check_fit, trial
from diffguard.storage.state_dict import fill
from diffguard.storage.trust import import_class

_PUBLISHED = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_LIBRARIES = ("torchvision", "timm", "openood")
OWN_NETWORKS: dict[str, type[nn.Module]] = {"small_cnn": SmallCNN, "whitened_cnn": WhitenedCNN}


def build_classifier(
    spec: ClassifierSpec,
    *,
    pretrained: bool = False,
    new_head: bool = False,
    resolved: bool = False,
    trusted: str | Collection[str] = (),
    state: Mapping[str, Tensor] | None = None,
) -> Classifier:
    """Build a classifier with random weights, or the library's pre-trained ones.

    Args:
        spec: What to build.
        pretrained: Use pre-trained weights of torchvision or timm (may download).
        new_head: Whether a pre-trained network with other classes gets a new, random last layer.
        resolved: Use the spec unchanged, as stored in a checkpoint, because the values that a
            library publishes may have changed since.
        trusted: Names that the user allows: import paths outside the known libraries, and
            architectures whose arguments may do more than shape the network.
        state: Weights to load strictly.

    Raises:
        UserError: For an architecture that cannot be built, arguments that are not allowed, absurd
            sizes, and weights that do not fit; before memory is allocated for the network.
    """
    trusted = consented(trusted)
    _check_library(spec.arch)
    if spec.channels != 3 and spec.arch.startswith(("torchvision/", "openood/")):
        raise UserError(f"{spec.arch} takes 3 channels: set classifier.channels to 3")
    if not resolved:
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
        _check_rebuilt(network, spec)
    else:
        network = _filled_network(spec, trusted, state)
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


def _check_library(arch: str) -> None:
    """Refuse model names that would make a library load a classifier from elsewhere."""
    library, slash, name = arch.partition("/")
    if not slash:
        return
    if library not in _LIBRARIES:
        raise UserError(
            f"classifier {arch} is not known: expected {', '.join(OWN_NETWORKS)}, "
            "torchvision/NAME, timm/NAME, openood/NAME or the import path of a class"
        )
    if not _PUBLISHED.fullmatch(name):
        raise UserError(f"classifier {arch} cannot be built: {name!r} is not the name of a model")


def _filled_network(
    spec: ClassifierSpec, trusted: tuple[str, ...], state: Mapping[str, Tensor] | None
) -> nn.Module:
    what, is_trusted = f"classifier {spec.arch}", spec.arch in trusted
    try:
        is_library = _is_library(spec.arch)
        build = network_builder(spec, trusted)
        if is_library and spec.kwargs and not is_trusted:
            plain = trial(library_builder(replace(spec, kwargs={})), what)
            check_arguments("classifier", spec.arch, type(plain), spec.kwargs, builder=True)
        elif not is_library and not is_trusted:
            cls = import_class(spec.arch, trusted)
            check_arguments("classifier", spec.arch, cls, spec.kwargs)
        # A user's class may need real tensors in its constructor.
        if is_library or not is_trusted:
            empty = trial(build, what)
            if state is not None:
                check_fit(empty, state, "classifier")
        network = build()
    except UserError:
        raise
    except Exception as error:
        # Constructors of libraries raise any type: TypeError, AssertionError, KeyError, …
        raise UserError(f"{what} cannot be built: {reason_of(error)}") from error
    if state is not None:
        fill(network, state, "classifier")
    return network


def _is_library(arch: str) -> bool:
    return arch in OWN_NETWORKS or "/" in arch


def network_builder(
    spec: ClassifierSpec, trusted: str | Collection[str] = ()
) -> Callable[[], nn.Module]:
    """A function that builds a network by its name in a library, or by its class.

    Raises:
        UserError: For a name that is not known, or a class that is not trusted.
    """
    _check_library(spec.arch)
    if _is_library(spec.arch):
        return library_builder(spec)
    cls = import_class(spec.arch, trusted)
    return partial(cls, **_classes(cls, spec), **spec.kwargs)


def library_builder(spec: ClassifierSpec) -> Callable[[], nn.Module]:
    """A function that builds a network by its name in a library."""
    library, _, name = spec.arch.partition("/")
    arguments: dict[str, Any] = {"num_classes": spec.num_classes, **spec.kwargs}
    if library == "torchvision":
        import torchvision

        model = torchvision_model(name)
        return partial(torchvision.models.get_model, model, weights=None, **arguments)
    if library == "timm":
        import timm

        return partial(timm.create_model, timm_model(name), in_chans=spec.channels, **arguments)
    if library == "openood":
        return partial(openood_network, name, **arguments)
    return partial(OWN_NETWORKS[spec.arch], in_channels=spec.channels, **arguments)


def _classes(cls: type[nn.Module], spec: ClassifierSpec) -> dict[str, int]:
    """The argument for the number of classes, if the class accepts it."""
    parameters = inspect.signature(cls).parameters
    takes_classes = "num_classes" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    return {"num_classes": spec.num_classes} if takes_classes else {}


def _check_rebuilt(network: nn.Module, spec: ClassifierSpec) -> None:
    """Check that spec and weights, which a checkpoint stores, rebuild the same network."""
    rebuilt = trial(library_builder(spec), f"classifier {spec.arch}")
    if place := first_difference(network, rebuilt):
        raise UserError(
            f"the pre-trained {spec.arch} differs in {place} from one that is built from "
            "classifier.arch and classifier.kwargs: name the argument that makes the difference "
            "in classifier.kwargs, or give your own weights in classifier.ckpt"
        )
