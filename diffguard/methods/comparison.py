"""Comparison of images with their reconstructions.

The classifier can be restricted to the object, see `ComparisonSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.classifiers.layer_masking import layer_masked
from diffguard.engine.recipe import Reconstruction
from diffguard.methods.views import views_of
from diffguard.scores.distances import Distance, Views
from diffguard.scores.fusion_rule import DIFFGUARD, UNGUIDED
from diffguard.settings.sections import ComparisonSettings


class Comparison:
    """Distances, with the classifier's output if one of them reads it.

    Args:
        classifier: The protected classifier.
        settings: How its outputs are compared.
        distances: Distance by name, between each image and its guided reconstruction.
        unguided_distances: Distance by name, between the unguided and the guided reconstruction.

    Attributes:
        layers: Names of the classifier's layers that the distances read.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: ComparisonSettings,
        distances: Mapping[str, Distance],
        unguided_distances: Mapping[str, Distance],
    ) -> None:
        self.classifier, self.settings = classifier, settings
        self.distances, self.unguided_distances = distances, unguided_distances
        both = [*distances.values(), *unguided_distances.values()]
        self.layers = sorted({d.layer for d in both if d.layer is not None})

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
        images, output = padded(images, batch_size), output.padded(batch_size)
        masks = None
        if self.settings.masking != "none":
            masks = self._masks(images, output)
            output = self._classify(images, masks)
        source = views_of(images, output)
        distances = [*self.distances.values(), *self.unguided_distances.values()]
        guided = self._views([r.guided for r in reconstructions], masks, distances, batch_size)
        columns: dict[str, Tensor] = {}
        for name, distance in self.distances.items():
            columns[f"{DIFFGUARD}/{name}"] = distance(source, guided)
        if self.unguided_distances:
            plain = [r.unguided for r in reconstructions if r.unguided is not None]
            distances = list(self.unguided_distances.values())
            unguided = self._views(plain, masks, distances, batch_size)
            for name, distance in self.unguided_distances.items():
                columns[f"{UNGUIDED}/{name}"] = distance(unguided, guided)
        return {n: c[: len(reconstructions)].double().cpu().numpy() for n, c in columns.items()}

    def _views(
        self,
        reconstructions: Sequence[Tensor],
        masks: Tensor | None,
        distances: Sequence[Distance],
        batch_size: int,
    ) -> Views:
        """Reconstructions, with the classifier's output if a distance reads it."""
        images = padded(torch.stack(list(reconstructions)), batch_size)
        if all(distance.needs == "images" for distance in distances):
            return Views(images)
        return views_of(images, self._classify(images, masks))

    def _masks(self, images: Tensor, output: ClassifierOutput) -> Tensor:
        """`(N, H, W)` bool, what the classifier may see; everything if that were nothing."""
        cam = grad_cam(self.classifier, images, output.logits.argmax(1))
        masks = cam_mask(scale_cam(cam), self.settings.cam_cut)
        return masks | ~masks.flatten(1).any(1).view(-1, 1, 1)

    def _classify(self, images: Tensor, masks: Tensor | None) -> ClassifierOutput:
        """The classifier's output for what the masks show; None shows everything."""
        if masks is None:
            return self.classifier.forward_features(images, self.layers)
        if self.settings.masking == "layers":
            return layer_masked(self.classifier, images, masks, self.layers)
        return self.classifier.forward_features(images * masks.unsqueeze(1), self.layers)
