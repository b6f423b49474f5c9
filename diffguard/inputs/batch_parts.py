"""The parts of a batch in the forms that users' loaders give."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffguard.errors import UserError

# What a batch of labeled images may be, for error lines.
LABELED = "a pair (images, labels), or a mapping with 'image' and 'label'"


class BatchParts(NamedTuple):
    """The parts of a batch or of a single image, unchecked.

    Attributes:
        images: The images; the whole batch if it has another form.
        labels: Their labels; None without labels.
        errors: Why each image could not be read, an empty text if it could; None if the batch does
            not have this part.
    """

    images: Any
    labels: Any = None
    errors: Any = None


def batch_parts(batch: Any) -> BatchParts:
    """Divide a batch into its parts.

    Args:
        batch: A mapping with `image` and perhaps `label` and `error`, a pair of images and labels,
            a list of pairs of one image and its label, a list of one batch `(N, C, H, W)`, or
            images.
    """
    if isinstance(batch, Mapping) and "image" in batch:
        errors = batch.get("error")
        errors = [errors] if isinstance(errors, str) else errors  # of a single image
        return BatchParts(batch["image"], batch.get("label"), errors)
    if isinstance(batch, list | tuple):
        if batch and all(_is_labeled_image(element) for element in batch):
            images, labels = zip(*batch, strict=True)
            return BatchParts(list(images), [int(label) for label in labels])
        # Labels have one dimension at most, so a second image makes a list of images.
        if len(batch) == 2 and not _is_image(batch[1]):
            return BatchParts(*batch)
        if len(batch) == 1 and isinstance(batch[0], Tensor) and batch[0].ndim == 4:
            return BatchParts(batch[0])
    return BatchParts(batch)


def _is_image(value: Any) -> bool:
    """Whether a value has a form of `working_images`, and cannot be labels."""
    if isinstance(value, Tensor):
        return value.ndim >= 3
    if isinstance(value, np.ndarray):
        return value.ndim >= 2
    return isinstance(value, Image.Image | str | os.PathLike)


def _is_labeled_image(element: Any) -> bool:
    """Whether an element of a batch is a pair of one image and its label."""
    if not (isinstance(element, list | tuple) and len(element) == 2 and _is_image(element[0])):
        return False
    label = element[1]
    is_scalar = isinstance(label, Tensor) and label.ndim == 0 and not label.is_floating_point()
    return is_scalar or isinstance(label, int | np.integer)


def images_of_any_form(batch: Any) -> BatchParts:
    """Divide a batch into its parts; the images have a form of `working_images`.

    Args:
        batch: A batch in a form of `batch_parts`.

    Raises:
        UserError: For a batch of another form.
    """
    parts = batch_parts(batch)
    images = parts.images
    is_list = isinstance(images, list | tuple) and len(images) > 0
    if not (_is_image(images) or (is_list and all(map(_is_image, images)))):
        raise _other_form(batch)
    return parts


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Images `(N, C, H, W)` and labels `(N,)` of a batch.

    Args:
        batch: A labeled batch in a form of `listed_images_and_labels`.

    Returns:
        The images, and int64 labels on their device.

    Raises:
        UserError: As for `batch_images`, and if there is not one whole number per image.
    """
    images, labels = batch_images(batch), batch_parts(batch).labels
    if labels is None:
        raise UserError(f"a batch has no labels: expected {LABELED}")
    if not (isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1):
        numbers = label_numbers(labels)
        labels = torch.tensor(numbers, dtype=torch.int64, device=images.device)
    if len(labels) != len(images):
        raise UserError(f"a batch has {len(images)} images and {len(labels)} labels")
    return images, labels


def batch_images(batch: Any) -> Tensor:
    """Images `(N, C, H, W)` of a batch, with or without labels.

    Args:
        batch: A batch in a form of `listed_images_and_labels`.

    Raises:
        UserError: For a batch of another form, or a list of images of several sizes.
    """
    images, _ = listed_images_and_labels(batch)
    if isinstance(images, Tensor):
        return images
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UserError(
            f"the images of a batch have the shapes {', '.join(map(str, shapes))}: bring them to "
            "one size in the data set"
        )
    return torch.stack(list(images))


def listed_images_and_labels(batch: Any) -> tuple[Tensor | Sequence[Tensor], Any]:
    """Images of one size or of several, and their unchecked labels.

    Args:
        batch: A mapping with `image` and perhaps `label`, a pair of images and labels, or images:
            a tensor `(N, C, H, W)`, such a tensor alone in a list, or a list of tensors
            `(C, H, W)`, each perhaps in a pair with its label. A single image `(C, H, W)` is a
            batch of one.

    Returns:
        The images as a tensor or a list, and the labels; None for a batch without labels.

    Raises:
        UserError: For a batch of another form.
    """
    images, labels, _ = batch_parts(batch)
    if isinstance(images, Tensor) and images.ndim == 3:
        return images[None], labels
    if not isinstance(images, Tensor) and not _is_list_of_images(images):
        raise _other_form(batch)
    return images, labels


def _other_form(batch: Any) -> UserError:
    advice = ""
    if isinstance(batch, list | tuple) and len(batch) > 2:
        advice = (
            "; for a data set with further values, give the DataLoader "
            "collate_fn=lambda items: default_collate([item[:2] for item in items])"
        )
    return UserError(
        f"a batch of type {type(batch).__name__} has no images: expected a tensor "
        f"(N, C, H, W), a list of tensors (C, H, W), {LABELED}{advice}"
    )


def _is_list_of_images(images: Any) -> bool:
    return (
        isinstance(images, list | tuple)
        and len(images) > 0
        and all(isinstance(image, Tensor) and image.ndim == 3 for image in images)
    )


def label_numbers(labels: Any) -> list[int]:
    """Labels as numbers; a single one becomes a list.

    Args:
        labels: A tensor, an array or a list `(N,)`, or one label.

    Raises:
        UserError: If they are not whole numbers, one for each image.
    """
    values = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim > 1 or values.dtype.kind not in "iu":
        raise UserError(
            "labels must be whole numbers (N,), the number of each image's class, got "
            f"{values.shape} {values.dtype}"
        )
    numbers: list[int] = values.reshape(-1).tolist()
    return numbers


def check_classes(labels: Tensor, classes: int, model: str) -> None:
    """Make sure that labels `(N,)` are numbers of classes, 0 to `classes` - 1.

    Args:
        labels: The labels.
        classes: The number of classes.
        model: What has these classes, for the error line, such as `classifier`.

    Raises:
        UserError: If one is not.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"an image has label {low if low < 0 else high}, but the {model} has {classes} "
            f"classes, 0 to {classes - 1}: correct the label"
        )


def class_labels(labels: Any, count: int, classes: int, name: str) -> list[int]:
    """The labels of ID images; negative ones belong to images without a label.

    Args:
        labels: `(N,)`; None if no image has one.
        count: The number of images.
        classes: The number of classes.
        name: Name of the set, for the error line.

    Raises:
        UserError: If there is not one label per image, or a label is not one of the classes.
    """
    if labels is None:
        return [-1] * count
    try:
        values = label_numbers(labels)
    except UserError as error:
        raise UserError(f"set {name}: {error}") from error
    if len(values) != count:
        raise UserError(f"set {name}: a batch has {count} images and {len(values)} labels")
    if max(values, default=-1) >= classes:
        raise UserError(
            f"set {name} has label {max(values)}, but the detector has {classes} classes, 0 to "
            f"{classes - 1}: correct the label; if the set is not ID, give the ID loader first, "
            "or set its group to id"
        )
    return values
