"""OpenOOD's classifiers: ResNet-18 for CIFAR, ResNet-50 (torchvision's names) for ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from diffguard.classifiers.openood import ResNet18_32x32
from diffguard.denoisers.formats.tensors import (
    build_empty,
    count_entries,
    fill,
    has,
    identity,
    shape_of,
)
from diffguard.errors import UserError
from diffguard.storage.foreign import read_checkpoint_tensors


def load_openood_classifier(path: str | Path, num_classes: int | None = None) -> nn.Module:
    """Load an OpenOOD checkpoint, in evaluation mode.

    Args:
        path: The file: a state dict of `ResNet18_32x32` or `ResNet50`.
        num_classes: Classes that the user expects; None accepts any.

    Returns:
        A network that takes normalised images `(N, 3, H, W)`.

    Raises:
        UserError: For another file, and tensors or classes that do not fit.
    """
    try:
        return convert(read_checkpoint_tensors(path), num_classes)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


def convert(tensors: Mapping[str, Tensor], num_classes: int | None = None) -> nn.Module:
    """Build the network that a state dict belongs to; see `load_openood_classifier`."""
    classes = shape_of(tensors, "fc.weight")[0]
    if num_classes is not None and num_classes != classes:
        raise UserError(
            f"the classifier has {classes} classes, expected {num_classes}: set num_classes to "
            "what it has, or take a classifier of your classes"
        )
    if has(tensors, "layer1.0.conv3."):
        network = build_empty(_torchvision_resnet50, num_classes=classes)
    else:
        layers = [f"layer{n}" for n in range(1, 5)]
        stem = shape_of(tensors, "conv1.weight")[0]
        network = build_empty(
            ResNet18_32x32,
            num_classes=classes,
            widths=(stem, *(shape_of(tensors, f"{n}.0.conv1.weight")[0] for n in layers)),
            blocks=[count_entries(tensors, f"{n}.") for n in layers],
        )
    fill(network, tensors, identity)
    return network


def _torchvision_resnet50(num_classes: int) -> nn.Module:
    import torchvision

    return torchvision.models.resnet50(num_classes=num_classes)
