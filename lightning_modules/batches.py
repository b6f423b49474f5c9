"""Batches and loaders of any DataModule, as a detector needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from diffguard.errors import UserError
from diffguard.inputs.batch_parts import batch_parts
from diffguard.report.set_metrics import ID

OOD = "ood"


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Images `(N, C, H, W)` and labels `(N,)` of a batch.

    Args:
        batch: A mapping with `image` and perhaps `label`, a pair of images and labels, or images.

    Returns:
        The images, and the labels; -1 for a batch without labels.

    Raises:
        UserError: For a batch of another form.
    """
    images, labels, _ = batch_parts(batch)
    if not isinstance(images, Tensor):
        raise UserError(
            f"a batch of type {type(batch).__name__} has no images: expected a tensor "
            "(N, C, H, W), a pair of images and labels, or a mapping with 'image' and 'label'"
        )
    if labels is None:
        labels = torch.full((len(images),), -1)
    return images, labels


def class_labels(labels: Tensor, classes: int, name: str) -> list[int]:
    """The labels of ID images; negative ones belong to images without a label.

    Args:
        labels: `(N,)`.
        classes: The number of classes.
        name: Name of the set, for the error line.

    Raises:
        UserError: If a label is not one of the classes.
    """
    is_tensor = isinstance(labels, Tensor)
    if not is_tensor or labels.ndim != 1 or labels.is_floating_point():
        shape = f"{labels.dtype} {tuple(labels.shape)}" if is_tensor else type(labels).__name__
        raise UserError(
            f"the labels of set {name} are {shape}: expected a tensor (N,) of whole numbers, one "
            "for each image"
        )
    values: list[int] = labels.tolist()
    if max(values, default=-1) >= classes:
        raise UserError(
            f"set {name} has label {max(values)}, but the detector has {classes} classes, 0 to "
            f"{classes - 1}: correct the label, or give the loader of the ID images first"
        )
    return values


def loader_list(loaders: Any) -> list[Any]:
    """The loaders of a Trainer, which may be one, a sequence, or a mapping from names."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, Sequence) else [loaders]


def groups_of(loaders: Any, groups: Mapping[str, str] | None) -> dict[str, str]:
    """Name -> group of the test sets, in the order of their loaders.

    Args:
        loaders: The test loaders: one, a sequence, or a mapping from names.
        groups: Name -> group, if it is known. By default the first loader has the group `id` and
            all others the group `ood`; sets without a name are called `id`, `ood_1`, `ood_2`, …

    Raises:
        UserError: If the number of loaders differs from that of `groups`.
    """
    count = len(loader_list(loaders))
    if groups is not None:
        if len(groups) != count:
            raise UserError(
                f"there are {count} test loaders, but groups for {len(groups)} sets: "
                f"{', '.join(groups)}; give one loader for each, in this order"
            )
        return dict(groups)
    if isinstance(loaders, Mapping):
        names = [str(name) for name in loaders]
    else:
        names = [ID, *(f"{OOD}_{number}" for number in range(1, count))]
    return {name: OOD if number else ID for number, name in enumerate(names)}


def own_images(loader: Any) -> int | None:
    """How many images of a loader belong to this process; None without a distributed sampler.

    A `DistributedSampler` repeats images, so that all processes have the same number. The repeated
    ones come last.
    """
    if not isinstance(loader, DataLoader):
        return None
    for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            total = len(sampler.dataset)  # type: ignore[arg-type]
            return len(range(sampler.rank, total, sampler.num_replicas))
    return None
