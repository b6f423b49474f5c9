"""Comparison of images with their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from diffguard.batching import padded
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.engine.recipe import Reconstruction
from diffguard.scores.build import build_distance
from diffguard.scores.calibration import DIFFGUARD
from diffguard.scores.distances import Distance, Views
from diffguard.settings.detector import DetectorSettings


class Comparison(nn.Module):
    """The distances of the settings, with the classifier's output if a distance reads it.

    Args:
        classifier: The protected classifier.
        settings: The settings that define the score.

    Attributes:
        distances: Distance by name, between each image and its guided reconstruction.
        unguided_distances: Distance by name, between the unguided and the guided reconstruction.
        qualities: Quality of early stop by name.
        layers: Names of the classifier's layers that the distances read.

    Raises:
        UserError: If a distance is unknown, or its weights are missing.
    """

    def __init__(self, classifier: Classifier, settings: DetectorSettings) -> None:
        super().__init__()
        self.classifier = classifier
        self._weights = settings.perceptual_weights
        self._networks = nn.ModuleDict()
        self.distances = {name: self._distance(name) for name in settings.distances}
        self.unguided_distances = {name: self._distance(name) for name in settings.unguided}
        # Built now, so that `to(device)` moves their networks too.
        self.qualities = {
            name: partial(self._quality, self._distance(name))
            for name in settings.early_stop.thresholds
        }
        distances = [*self.distances.values(), *self.unguided_distances.values()]
        self.layers = sorted({d.layer for d in distances if d.layer is not None})

    def forward(
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
        source = _views_of(padded(images, batch_size), output.padded(batch_size))
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

    def _distance(self, name: str) -> Distance:
        # Names of layers contain dots, and names of modules must not.
        key = name.replace(".", "/")
        if key not in self._networks:
            self._networks[key] = build_distance(name, weights=self._weights)
        distance = self._networks[key]
        if not isinstance(distance, Distance):
            raise TypeError(f"{name} is not a distance")
        return distance

    def _quality(self, distance: Distance, states: Tensor, images: Tensor) -> Tensor:
        """Quality `(N,)` of states against their images, both `(N, C, h, w)`."""
        if distance.needs == "images":
            return distance.quality(Views(states), Views(images))
        layers = [] if distance.layer is None else [distance.layer]
        first, second = (
            _views_of(x, self.classifier.forward_features(x, layers)) for x in (states, images)
        )
        return distance.quality(first, second)

    def _views(
        self, reconstructions: Sequence[Tensor], distances: Sequence[Distance], batch_size: int
    ) -> Views:
        """Reconstructions, with the classifier's output if a distance reads it."""
        images = padded(torch.stack(list(reconstructions)), batch_size)
        if all(distance.needs == "images" for distance in distances):
            return Views(images)
        return _views_of(images, self.classifier.forward_features(images, self.layers))


def _views_of(images: Tensor, output: ClassifierOutput) -> Views:
    """Images `(N, C, H, W)` with the classifier's output, as the distances take them."""
    return Views(images, output.logits, output.features, output.layers)
