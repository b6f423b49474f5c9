"""Data sets of torchvision: `torchvision:NAME`, `torchvision:NAME/PART`.

The arrays of the small sets are taken as they are; images of the others are read one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.image_set import ImageSet, MissingDataError, TensorSet, content_hash, no_labels
from datamodules.request import Request, Section
from diffguard.errors import UserError, missing_package, reason_of
from diffguard.inputs.pil_images import decode

_ARRAYS = ("CIFAR10", "CIFAR100", "SVHN", "MNIST", "FashionMNIST")
# Arguments of torchvision's classes that select a part.
_PART_ARGUMENTS = ("split", "image_set", "version", "train")
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")
_NAME_ATTRIBUTES = ("classes", "categories")


class TorchvisionSet(ImageSet):
    """A data set of torchvision whose images are read one by one.

    Args:
        name: See `ImageSet`.
        data: torchvision's data set; its items begin with a PIL image.
        labels: See `ImageSet`.
        class_names: See `ImageSet`.
    """

    def __init__(
        self, name: str, data: Any, labels: Tensor, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(name, labels, class_names)
        self._data = data

    def image(self, index: int) -> Tensor:
        """Read one image."""
        try:
            return decode(self._data[index][0])
        except Exception as error:
            # Readers of torchvision raise many kinds of exceptions on missing or damaged files.
            raise UserError(f"{self.origin(index)} cannot be read: {reason_of(error)}") from error

    def content(self, index: int) -> int:
        """A hash of the decoded image; -1 if it is unreadable."""
        try:
            image = self._data[index][0]
            return content_hash([f"{image.mode} {image.size} ".encode(), image.tobytes()])
        except Exception:
            # As in `image`, which then reports the reason.
            return -1


def torchvision_set(request: Request) -> ImageSet:
    """Open a data set of torchvision.

    Args:
        request: A source of the form `torchvision:NAME/PART[FIRST:END]`. The part is the value of
            torchvision's `split`, `image_set` or `version`, or `train` or `test`; it is left out if
            the data set has no parts.

    Raises:
        MissingDataError: If the data are absent.
        UserError: If there is no such data set or part, its items are not single images, or an ID
            set has no class labels.
    """
    section = Section.parse(request.source)
    if section is None:
        raise request.bad(
            "torchvision:NAME or torchvision:NAME/PART, optionally with the images [FIRST:END]"
        )
    name, *parts = section.words
    data = _load(name, parts, request)
    if name in _ARRAYS:
        pixels = _pixels(data.data)
        labels, names = (
            _labels(data, request) if request.labeled else (no_labels(len(pixels)), None)
        )
        return section.cut(TensorSet(request.name, pixels, labels, names), request)
    _check_images(data, name, request)
    labels, names = _labels(data, request) if request.labeled else (no_labels(len(data)), None)
    return section.cut(TorchvisionSet(request.name, data, labels, names), request)


def _load(name: str, parts: Sequence[str], request: Request) -> Any:
    """Torchvision's data set of a name and part."""
    from torchvision import datasets

    data_class = getattr(datasets, name) if name in datasets.__all__ else None
    if not isinstance(data_class, type):
        raise request.bad("NAME to be a data set of torchvision, such as DTD, Places365 or EuroSAT")
    parameters = _parameters(data_class)
    arguments = _part(name, parts, parameters, request)
    needed = [key for key, value in parameters.items() if value is inspect.Parameter.empty]
    needed = [key for key in needed if key != "root" and key not in arguments]
    if "root" not in parameters or needed:
        raise request.bad(
            f"a data set of torchvision that needs a folder and a part only, and {name} needs "
            + (", ".join(needed) or "no folder")
        )
    if "download" in parameters:
        arguments["download"] = request.download
    try:
        return data_class(request.root, **arguments)
    except ImportError as error:
        package = (error.name or "that the last line names").partition(".")[0]
        raise UserError(missing_package(f"torchvision's {name}", package)) from error
    except ValueError as error:
        raise UserError(
            f"source {request.source!r} of set {request.name!r}: {reason_of(error)}"
        ) from error
    except (RuntimeError, OSError) as error:
        can_download = "download" in parameters and not request.download
        raise MissingDataError(
            f"torchvision found no {name} in {str(request.root)!r} ({reason_of(error)})",
            "set data.root" + (", or pass --data.download true" if can_download else ""),
        ) from error


def _parameters(data_class: Any) -> dict[str, Any]:
    """Argument -> default of a constructor, with those that it passes on to its base class."""
    parameters: dict[str, Any] = {}
    for base in inspect.getmro(data_class):
        of_base = inspect.signature(base).parameters.values()
        for parameter in of_base:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in of_base):
            break
    return parameters


def _part(
    name: str, parts: Sequence[str], parameters: dict[str, Any], request: Request
) -> dict[str, Any]:
    """The arguments that select the part."""
    keys = [key for key in _PART_ARGUMENTS if key in parameters]
    if len(parts) != len(keys) or ("train" in keys and parts[-1] not in ("train", "test")):
        words = ["PART" if key != "train" else "train or test" for key in keys]
        raise request.bad("/".join([f"torchvision:{name}", *words]))
    arguments: dict[str, Any] = dict(zip(keys, parts, strict=True))
    if "train" in arguments:
        arguments["train"] = arguments["train"] == "train"
    return arguments


def _pixels(data: Any) -> Tensor:
    """Torchvision's array of images as uint8 `(N, C, H, W)`."""
    pixels = torch.from_numpy(np.asarray(data))
    if pixels.ndim == 3:  # MNIST and FashionMNIST are (N, H, W)
        return pixels[:, None]
    return pixels.permute(0, 3, 1, 2) if pixels.shape[-1] == 3 else pixels  # CIFAR is (N, H, W, 3)


def _check_images(data: Any, name: str, request: Request) -> None:
    """Refuse a data set whose items are not single images, such as videos or pairs."""
    if not len(data):
        raise MissingDataError(f"torchvision's {name} in {str(request.root)!r} has no images")
    try:
        item = data[0]
    except Exception as error:
        raise UserError(
            f"source {request.source!r} of set {request.name!r}: the first image cannot be read: "
            f"{reason_of(error)}"
        ) from error
    if not isinstance(item, tuple) or not isinstance(item[0], Image.Image):
        raise request.bad(f"a data set of single images, and {name} is not one")


def _labels(data: Any, request: Request) -> tuple[Tensor, Sequence[str] | None]:
    """int64 `(N,)` class indices and, if there are any, class names.

    Raises:
        UserError: If the data set has no class per image.
    """
    lists = [getattr(data, key, None) for key in _LABEL_ATTRIBUTES]
    lists.append([sample[1] for sample in getattr(data, "_samples", None) or ()])
    values = next((item for item in lists if item is not None and len(item) == len(data)), None)
    try:
        labels = torch.as_tensor(np.asarray(values, dtype=np.int64))
        # Several targets per image, or labels of another meaning, would pass as classes.
        right = labels.ndim == 1 and int(labels.min()) >= 0 and int(data[0][1]) == int(labels[0])
    except (TypeError, ValueError):
        right = False
    if not right:
        raise request.bad("an ID set, and this data set has no class per image")
    lists = [getattr(data, key, None) for key in _NAME_ATTRIBUTES]
    names = next((item for item in lists if item), None)
    if request.class_names or not names:
        return labels, request.class_names
    return labels, [name if isinstance(name, str) else ", ".join(name) for name in names]
