"""What all methods of a detector share: its networks, its settings and its seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffguard.batching import padded
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.methods.checks import check_checkerboard, check_models
from diffguard.methods.views import views_of
from diffguard.scores.build import build_distance
from diffguard.scores.distances import Distance, Views
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.image_size import check_image_size


class Models(nn.Module):
    """The networks of a detector, with the settings that define its scores.

    The networks are put in evaluation mode, without gradients.

    Args:
        classifier: The protected classifier.
        denoiser: The diffusion model.
        settings: The settings that define the scores.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        noisy_classifier: `(images, t) -> logits`, trained on noisy images; used if
            `guidance.model` is `noisy`.
        seed: Seed of the randomness that belongs to each image.

    Attributes:
        qualities: Quality of early stop by name: states and images, both `(N, C, h, w)`, to `(N,)`.

    Raises:
        UserError: For settings that do not fit each other or the networks, or if the weights of a
            distance are missing.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Denoiser,
        settings: DetectorSettings,
        *,
        image_size: int,
        image_channels: int,
        noisy_classifier: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.denoiser = denoiser
        self.noisy_classifier = noisy_classifier
        for network in (classifier, denoiser, noisy_classifier):
            if isinstance(network, nn.Module):
                network.eval().requires_grad_(requires_grad=False)
        self.settings = settings
        self.image_size = image_size
        self.image_channels = image_channels
        self.seed = seed
        check_image_size(settings.reconstruction_distances, image_size)
        check_models(settings, classifier, denoiser, noisy_classifier)
        check_checkerboard(settings, denoiser, image_size)
        thresholds = settings.early_stop.thresholds
        # Built now, so that `to(device)` moves their networks too.
        self._distances = nn.ModuleDict()
        for name in settings.all_distances:
            self._add_distance(name)
        self.qualities = {name: partial(self._quality, self.distance(name)) for name in thresholds}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that build the same models."""
        names = ("classifier", "denoiser", "settings", "image_size", "image_channels", "seed")
        return {name: getattr(self, name) for name in (*names, "noisy_classifier")}

    def with_settings(self, settings: DetectorSettings) -> Models:
        """The same networks with other settings."""
        return Models(**{**self.arguments, "settings": settings}).to(self.device)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode.

        In training mode the normalization layers would learn from the images that are judged.
        """
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """The device of the classifier's weights."""
        return next(self.classifier.parameters()).device

    @property
    def plan(self) -> SamplingPlan:
        """The respaced timesteps."""
        s = self.settings.sampler
        return SamplingPlan.build(
            self.denoiser.schedule, s.steps, s.spacing, s.pairing, s.first_level
        )

    @torch.no_grad()
    def classify(
        self, images: Tensor, batch_size: int, layers: Sequence[str] = ()
    ) -> ClassifierOutput:
        """The classifier's outputs, in calls of one shape.

        Args:
            images: `(N, C, H, W)` in [0, 1], N at least 1.
            batch_size: Rows of every call.
            layers: Names of layers whose activations are returned too.
        """
        parts = []
        for rows in images.split(batch_size):
            output = self.classifier.forward_features(padded(rows, batch_size), layers)
            parts.append(output.select(slice(len(rows))))
        return ClassifierOutput.concatenate(parts)

    def distance(self, name: str) -> Distance:
        """A distance that the settings name."""
        distance = self._distances[_module_name(name)]
        if not isinstance(distance, Distance):
            raise TypeError(f"{name} is not a distance")
        return distance

    def _add_distance(self, name: str) -> None:
        if _module_name(name) not in self._distances:
            distance = build_distance(name, weights=self.settings.perceptual_weights)
            self._distances[_module_name(name)] = distance

    def _quality(self, distance: Distance, states: Tensor, images: Tensor) -> Tensor:
        """Quality `(N,)` of states against their images, both `(N, C, h, w)`."""
        if distance.needs == "images":
            return distance.quality(Views(states), Views(images))
        layers = [] if distance.layer is None else [distance.layer]
        first, second = (
            views_of(x, self.classifier.forward_features(x, layers)) for x in (states, images)
        )
        return distance.quality(first, second)


class ModelProperties:
    """The attributes of `models` as properties of the object that holds them."""

    models: Models

    @property
    def settings(self) -> DetectorSettings:
        """The settings that define the score."""
        return self.models.settings

    @property
    def classifier(self) -> Classifier:
        """The protected classifier."""
        return self.models.classifier

    @property
    def denoiser(self) -> Denoiser:
        """The diffusion model."""
        return self.models.denoiser

    @property
    def noisy_classifier(self) -> nn.Module | None:
        """The classifier of noisy images; None without one."""
        return self.models.noisy_classifier

    @property
    def image_size(self) -> int:
        """Side in pixels to which images are resized."""
        return self.models.image_size

    @property
    def image_channels(self) -> int:
        """Channels to which images are converted, 1 or 3."""
        return self.models.image_channels

    @property
    def seed(self) -> int:
        """Seed of the randomness that belongs to each image."""
        return self.models.seed

    @property
    def device(self) -> torch.device:
        """The device of the classifier's weights."""
        return self.models.device


def _module_name(distance: str) -> str:
    # Names of layers contain dots, and names of modules must not.
    return distance.replace(".", "/")
