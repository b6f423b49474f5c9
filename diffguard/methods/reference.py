"""The features of ID training images, on which the feature baselines are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.items import readable
from diffguard.methods.models import Models
from diffguard.scores.reference import Reference

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingImages:
    """ID training images, not augmented.

    Attributes:
        count: Returns their number.
        batches: Returns batches of at most the given number of images, always the same choice.
    """

    count: Callable[[], int]
    batches: Callable[[int], Batches]


@reproducible()
def fit_reference(models: Models, training: TrainingImages, batch_size: int) -> Reference:
    """The classifier's features of ID training images, for the feature baselines.

    Args:
        models: The networks and settings, on their device.
        training: The ID training images.
        batch_size: Rows of each classifier call.

    Raises:
        UserError: If no image can be read.
    """
    most, total = models.settings.reference_images, training.count()
    # Features of ImageNet take 10 GB: they are written to their place instead of joined.
    features = torch.empty(0, 0)
    labels = torch.empty(min(most, total), dtype=torch.int64)
    count = 0
    for output, true in classified(models, training.batches(most), batch_size):
        rows = slice(count, count + len(true))
        if not count:
            features = torch.empty(len(labels), output.features.shape[1])
        features[rows], labels[rows] = output.features, true
        count = rows.stop
    if not count:
        raise UserError("no ID training image can be read: check their files")
    if count < len(labels):  # some could not be read, and a checkpoint would save their rows too
        features, labels = features[:count].clone(), labels[:count].clone()
    return Reference(features, labels, min(1.0, most / total))


def classified(
    models: Models, loader: Any, batch_size: int
) -> Iterator[tuple[ClassifierOutput, torch.Tensor]]:
    """The classifier's output and the labels of each batch, without unreadable images."""
    for images, labels in readable(loader):
        yield models.classify(images.to(models.device), batch_size), labels.cpu()
