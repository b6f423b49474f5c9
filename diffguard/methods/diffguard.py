"""DiffGuard: reconstruct an image, guided by its label, and compare it with the result.

An image whose label is right comes back almost unchanged. One that the label does not describe is
pulled toward the label, and the distance between the two images is the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from diffguard.batching import padded
from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.solver import Solver
from diffguard.diffusion.solvers import build_solver
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.jobs import Job
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe, Reconstruction
from diffguard.images import pixel_key
from diffguard.methods.checks import check_models
from diffguard.methods.comparison import Comparison
from diffguard.methods.items import Item
from diffguard.randomness import image_generator
from diffguard.settings.checks import check_image_size
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings


class DiffGuard(nn.Module):
    """The method: which label guides an image, how it is reconstructed, how the two are compared.

    Args:
        classifier: The protected classifier.
        denoiser: The diffusion model.
        settings: The settings that define the score.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        noisy_classifier: `(images, t) -> logits`, trained on noisy images; used if
            `guidance.model` is `noisy`.
        seed: Seed of the randomness that belongs to each image.

    Attributes:
        comparison: The distances between images and their reconstructions.

    Raises:
        UserError: For settings that do not fit each other or the models.
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
        check_image_size(settings, image_size)
        check_models(settings, classifier, denoiser, noisy_classifier)
        self.comparison = Comparison(classifier, settings)

    def train(self, mode: bool = True) -> DiffGuard:  # noqa: ARG002
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

    @property
    def max_steps(self) -> int:
        """The largest number of inversion steps of an image."""
        return self.settings.inversion.most_steps(len(self.plan))

    @property
    def draws_crops(self) -> bool:
        """Whether classifier guidance draws crops for each image."""
        guidance = self._guidance()
        return isinstance(guidance, ClassifierGuidance) and guidance.draws_crops

    def recipe(self) -> Recipe:
        """How images are reconstructed, resolved from the settings."""
        settings = self.settings
        thresholds = settings.early_stop.thresholds
        return Recipe(
            plan=self.plan,
            max_steps=self.max_steps,
            clip=settings.sampler.clip,
            solver=self._solver(),
            inversion=settings.inversion.condition,
            inversion_scale=settings.inversion.scale,
            qualities=[
                (quality, thresholds[name])
                for name, quality in self.comparison.qualities.items()
                if thresholds[name] is not None
            ],
            guidance=self._guidance(),
            unguided=bool(settings.unguided),
            extra_start=settings.synthesis.extra_start,
            skip=settings.synthesis.skip,
        )

    def _solver(self) -> Solver:
        sampler = self.settings.sampler
        shift = sampler.time_shift
        return build_solver(
            sampler.solver, sampler.pairing, self.denoiser.schedule,
            window=shift.window, cutoff=shift.cutoff,
        )  # fmt: skip

    @torch.no_grad()
    def classify(self, images: Tensor, batch_size: int) -> ClassifierOutput:
        """Logits, features and named layers of images `(N, C, H, W)` in [0, 1], N at least 1."""
        parts = []
        for rows in images.split(batch_size):
            output = self.classifier.forward_features(
                padded(rows, batch_size), self.comparison.layers
            )
            parts.append(output.select(slice(len(rows))))
        return ClassifierOutput.concatenate(parts)

    def jobs(
        self, items: Sequence[Item], images: Tensor, predictions: Sequence[int], batch_size: int
    ) -> list[Job]:
        """The images to reconstruct, with their labels and masks.

        Args:
            items: At most `batch_size` items.
            images: `(N, C, H, W)`, their images on the device.
            predictions: Their predicted classes.
            batch_size: Rows of every network call.
        """
        labels = [self._label(item, y) for item, y in zip(items, predictions, strict=True)]
        masks: Sequence[Tensor | None] = [None] * len(items)
        guidance = self.settings.guidance
        cut = guidance.cam_cut if isinstance(guidance, ClassifierFreeSettings) else None
        if cut is not None:
            target = padded(torch.tensor(labels, device=images.device), batch_size)
            cam = grad_cam(self.classifier, padded(images, batch_size), target)
            masks = list(cam_mask(scale_cam(cam[: len(items)]), cut))
        draws = self.draws_crops
        return [
            Job(image, label, (pixel_key(item.image),) if draws else (), mask)
            for item, image, label, mask in zip(items, images, labels, masks, strict=True)
        ]

    def compare(
        self, reconstructions: Sequence[Reconstruction], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Compare images with their reconstructions; see `Comparison`."""
        return self.comparison(reconstructions, output, batch_size)

    def _label(self, item: Item, prediction: int) -> int:
        """The label that guides an item."""
        if self.settings.label == "prediction":
            return prediction
        if item.label >= 0:
            return item.label
        generator = image_generator(self.seed, pixel_key(item.image), "oracle")
        return int(torch.randint(self.classifier.num_classes, (), generator=generator))

    def _guidance(self) -> ClassifierFree | ClassifierGuidance:
        guidance = self.settings.guidance
        if isinstance(guidance, ClassifierFreeSettings):
            return ClassifierFree(guidance.scale)
        noisy = None if guidance.model == "protected" else self.noisy_classifier
        crops, size = guidance.crops, self.classifier.size
        return ClassifierGuidance(
            # Random crops are classified whole, without the classifier's own center crop.
            classify=noisy or (lambda images, _t: self.classifier(images, crop=not crops.number)),
            scale=guidance.scale,
            blend=guidance.blend,
            crops=crops.number,
            crop_size=crops.size or (None if size is None else min(size)),
            input_size=None if size is None else max(size),
            reduction=crops.reduction,
            shared_crops=crops.shared,
            seed=crops.seed if crops.shared else self.seed,
        )
