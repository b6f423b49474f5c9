"""Comparison of images with their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.recipe import Reconstruction
from diffguard.methods.models import Models, views_of
from diffguard.scores.calibration import DIFFGUARD
from diffguard.scores.distances import Distance, Views


class Comparison:
    """The distances of the settings, with the classifier's output if a distance reads it.

    Args:
        models: The networks and settings of a detector.

    Attributes:
        distances: Distance by name, between each image and its guided reconstruction.
        unguided_distances: Distance by name, between the unguided and the guided reconstruction.
        layers: Names of the classifier's layers that the distances read.
    """

    def __init__(self, models: Models) -> None:
        settings = models.settings
        self.classifier = models.classifier
        self.distances = {name: models.distance(name) for name in settings.distances}
        self.unguided_distances = {name: models.distance(name) for name in settings.unguided}
        distances = [*self.distances.values(), *self.unguided_distances.values()]
        self.layers = sorted({d.layer for d in distances if d.layer is not None})

    def __call__(
        self, reconstructions: Sequence[Reconstruction], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Compare images with their reconstructions.

        Args:
            reconstructions: At most `batch_size` of them.
            output: The classifier's output for the original images.
            batch_size: Rows of every network call.

        Returns:
            Name -> `(N,)` float64, higher = more OOD.
        """
        images = torch.stack([r.job.image for r in reconstructions])
        source = views_of(padded(images, batch_size), output.padded(batch_size))
        distances = [*self.distances.values(), *self.unguided_distances.values()]
        guided = self._views([r.guided for r in reconstructions], distances, batch_size)
        columns: dict[str, Tensor] = {}
        for name, distance in self.distances.items():
            columns[f"{DIFFGUARD}/{name}"] = distance(source, guided)
        if self.unguided_distances:
            plain = [r.unguided for r in reconstructions if r.unguided is not None]
            unguided = self._views(plain, list(self.unguided_distances.values()), batch_size)
            for name, distance in self.unguided_distances.items():
                columns[f"{DIFFGUARD}/unguided/{name}"] = distance(unguided, guided)
        return {n: c[: len(images)].double().cpu().numpy() for n, c in columns.items()}

    def _views(
        self, reconstructions: Sequence[Tensor], distances: Sequence[Distance], batch_size: int
    ) -> Views:
        """Reconstructions, with the classifier's output if a distance reads it."""
        images = padded(torch.stack(list(reconstructions)), batch_size)
        if all(distance.needs == "images" for distance in distances):
            return Views(images)
        return views_of(images, self.classifier.forward_features(images, self.layers))
