"""How a classifier that exists already can be built again, as a checkpoint needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from diffguard.classifiers.build import library_builder, network_builder
from diffguard.classifiers.library import published_arguments
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.errors import UserError, reason_of
from diffguard.storage.rebuilding import first_difference
from diffguard.storage.sizes import trial
from diffguard.storage.trust import import_class


def named_spec(
    network: nn.Module, spec: ClassifierSpec, arch: str | None, kwargs: Mapping[str, Any]
) -> ClassifierSpec:
    """The spec of a network whose constructor is named.

    Args:
        network: The network.
        spec: Its spec, apart from `arch` and `kwargs`.
        arch: As `ClassifierSpec.arch`; None is the class of the network.
        kwargs: Further arguments of the constructor.

    Raises:
        UserError: If the class cannot be imported, or `arch` and `kwargs` build another network.
    """
    spec = replace(spec, arch=arch or _class_path(network), kwargs=dict(kwargs))
    try:
        rebuilt = network_builder(spec, [spec.arch])()
    except UserError:
        raise
    except Exception as error:
        # Constructors raise any type.
        raise UserError(f"classifier {spec.arch} cannot be built: {reason_of(error)}") from error
    if place := first_difference(network.eval(), rebuilt.eval()):
        raise UserError(
            f"the classifier differs in {place} from one that arch {spec.arch} and kwargs "
            f"{dict(kwargs)} build: name the arguments that it was made with"
        )
    return spec


def recognized_spec(network: nn.Module, spec: ClassifierSpec) -> ClassifierSpec | None:
    """The spec of a network of torchvision or timm, recognized by its layers and attributes.

    Args:
        network: The network.
        spec: Its spec, apart from `arch` and `kwargs`.

    Returns:
        The spec; None if no builder of these libraries gives the same network.
    """
    for arch, kwargs in _candidates(network, spec.num_classes):
        candidate = replace(spec, arch=arch, kwargs=kwargs)
        try:
            rebuilt = trial(library_builder(candidate), f"classifier {arch}")
        except Exception:
            continue  # libraries raise any type; what cannot be built does not match
        if first_difference(network.eval(), rebuilt.eval()) is None:
            return candidate
    return None


def _candidates(network: nn.Module, num_classes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments with which a library may have built a network."""
    module = type(network).__module__
    published = getattr(network, "pretrained_cfg", None)
    if module.startswith("timm.") and isinstance(published, Mapping):
        tag = published.get("tag")
        yield f"timm/{published['architecture']}{f'.{tag}' if tag else ''}", {}
    if module.startswith("torchvision.models."):
        from torchvision import models

        for name in models.list_models(module=models):
            if models.get_model_builder(name).__module__ == module:
                arch = f"torchvision/{name}"
                yield arch, published_arguments(arch, num_classes)
                yield arch, {}


def _class_path(network: nn.Module) -> str:
    cls = type(network)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__" or "<locals>" in path or import_class(path, [path]) is not cls:
        raise UserError(
            f"class {cls.__name__} cannot be imported where the checkpoint is loaded: move it from "
            "the script or notebook to a module"
        )
    return path
