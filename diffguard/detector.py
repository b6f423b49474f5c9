"""The detector: a classifier, a diffusion model, settings and what calibration found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.batching import fixed_batch_size, padded
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.acceleration import accelerate
from diffguard.engine.classifier_guidance import ClassifierSteering
from diffguard.engine.jobs import Quality, Recipe
from diffguard.errors import UserError
from diffguard.images import check_images, to_working_size
from diffguard.methods.checks import check_models, check_unlabelled
from diffguard.methods.items import Item, Scored
from diffguard.methods.stream import ScoreStream, views_of
from diffguard.scores.baselines import Baselines, Reference
from diffguard.scores.calibration import Calibration
from diffguard.scores.distances import Distance, Views, build_distance
from diffguard.settings.checks import check_settings
from diffguard.settings.detector import DetectorSettings, score_names


@dataclass(frozen=True)
class Verdicts:
    """What the detector says of N images.

    Attributes:
        label: `(N,)` int64, the predicted class.
        probability: `(N,)` its softmax probability, in [0, 1].
        score: `(N,)` float64 decision score, higher = more OOD.
        percentile: `(N,)` share of ID validation images with at most this score, 0 … 100.
        is_ood: `(N,)` bool, the score is above the threshold.
    """

    label: Tensor
    probability: Tensor
    score: Tensor
    percentile: Tensor
    is_ood: Tensor


class Detector(nn.Module):
    """DiffGuard around a classifier.

    Args:
        classifier: The protected classifier.
        denoiser: The diffusion model.
        settings: What defines the score.
        image_size: Side of the working images, to which all others are brought.
        image_channels: Channels of the working images, 1 or 3.
        reference: ID training features for the feature baselines.
        calibration: What ID validation images told; None before calibration.
        noisy_classifier: `(images, t) -> logits`, trained on noisy images; for
            `guidance.classifier = "noisy"`.
        seed: Seed of the randomness that belongs to each image.

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
        reference: Reference | None = None,
        calibration: Calibration | None = None,
        noisy_classifier: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(requires_grad=False)
        self.denoiser = denoiser
        if isinstance(denoiser, nn.Module):
            denoiser.eval().requires_grad_(requires_grad=False)
        self.settings = settings
        self.image_size = image_size
        self.image_channels = image_channels
        self.reference = reference
        self.calibration = calibration
        self.noisy_classifier = noisy_classifier
        if noisy_classifier is not None:
            noisy_classifier.eval().requires_grad_(requires_grad=False)
        self.seed = seed
        check_settings(settings, image_size)
        check_models(settings, classifier, denoiser, noisy_classifier)
        self.baselines = Baselines(
            settings.baselines,
            reference,
            classifier.head,
            knn_k=settings.knn_k,
            vim_dim=settings.vim_dim,
        )
        self._measures = nn.ModuleDict()
        self.distances = {name: self._measure(name) for name in settings.distances}
        self.unguided_distances = {name: self._measure(name) for name in settings.unguided}
        # Built now, so that `to(device)` takes their networks along.
        self.qualities = {name: self._quality(name) for name in settings.early_stop.thresholds}
        every = [*self.distances.values(), *self.unguided_distances.values()]
        self.layers = sorted({d.layer for d in every if d.layer is not None})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        trusted: str | Collection[str] = (),
        diffusion: str | None = None,
    ) -> Detector:
        """Load a `detector.ckpt`; see `diffguard.checkpoint.file.load_detector`."""
        from diffguard.checkpoint.file import load_detector

        return load_detector(path, device=device, trusted=trusted, diffusion=diffusion)

    def train(self, mode: bool = True) -> Detector:  # noqa: ARG002
        """Stay in evaluation mode, whatever the mode of a module around the detector.

        In training mode the classifier's normalization layers would learn from the images that
        are judged, and dropout would change their scores.
        """
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """Where the classifier's weights are."""
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
        """Most inversion steps of an image."""
        return self.settings.inversion.most_steps(len(self.plan))

    def recipe(self) -> Recipe:
        """How to reconstruct, resolved from the settings."""
        settings, guidance = self.settings, self.settings.guidance
        thresholds = settings.early_stop.thresholds
        return Recipe(
            plan=self.plan,
            max_steps=self.max_steps,
            clip=settings.sampler.clip,
            inversion=settings.inversion.condition,
            inversion_scale=settings.inversion.scale,
            qualities=[
                (quality, thresholds[name])
                for name, quality in self.qualities.items()
                if thresholds[name] is not None
            ],
            scale=guidance.scale,
            steering=self._steering() if guidance.kind == "classifier" else None,
            unguided=bool(settings.unguided),
            extra_start=guidance.extra_start,
            skip=guidance.skip,
        )

    def score_names(self, *, derived: bool = True) -> list[str]:
        """The scores of each image, in the order of the table's columns.

        Args:
            derived: With those that need calibration: `diffguard` and its fusion.
        """
        return score_names(self.settings, derived=derived)

    def stream(
        self, batch_size: int, *, derive: bool = True, unguided: bool = False
    ) -> ScoreStream:
        """A stream that scores images in calls of one shape; see `ScoreStream`."""
        # A part may have been put into training mode by itself.
        self.eval()
        network, settings = getattr(self.denoiser, "network", None), self.settings
        if isinstance(network, nn.Module):
            accelerate(network, compile=settings.compile, channels_last=settings.channels_last)
        return ScoreStream(self, batch_size, derive=derive, unguided=unguided)

    @torch.no_grad()
    def classify(self, images: Tensor, batch_size: int) -> ClassifierOutput:
        """Logits, features and named layers of images `(N, C, H, W)` in [0, 1]."""
        parts = []
        for rows in images.split(batch_size):
            output = self.classifier.forward_features(padded(rows, batch_size), self.layers)
            parts.append(output.select(slice(len(rows))))
        return ClassifierOutput.concatenate(parts)

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images `(N, C, H, W)` in [0, 1] of any size to the working size, on the CPU.

        Raises:
            UserError: For images of another shape, dtype or range.
        """
        images = check_images(images).cpu()
        shape = (len(images), self.image_channels, self.image_size, self.image_size)
        prepared = images.new_empty(shape)
        for target, image in zip(prepared, images, strict=True):
            target.copy_(to_working_size(image, self.image_size, self.image_channels))
        return prepared

    def require_calibration(self) -> Calibration:
        """The calibration.

        Raises:
            UserError: If the detector is not calibrated.
        """
        if self.calibration is None:
            raise UserError("the detector is not calibrated: run train.py with stage calibrate")
        return self.calibration

    def score_images(self, images: Tensor, *, batch_size: int = 64) -> list[Scored]:
        """Score images, with all scores and reconstructions, in their order.

        Args:
            images: `(N, C, H, W)` in [0, 1], C = 1 or 3, any size.
            batch_size: Images of every network call, at least 1.

        Raises:
            UserError: For images of another shape, dtype or range, or a batch size below 1.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        images = self.prepare(images)
        stream = self.stream(min(batch_size, fixed_batch_size(max(1, len(images)))))
        items = [Item(image, index=i) for i, image in enumerate(images)]
        scored = stream.push(items) + stream.flush()
        return sorted(scored, key=lambda one: one.item.index)

    def score(self, images: Tensor, *, name: str | None = None, batch_size: int = 64) -> Tensor:
        """Score images.

        Args:
            images: `(N, C, H, W)` in [0, 1], C = 1 or 3, any size.
            name: Which score; None is `settings.decision`.
            batch_size: Images of every network call, at least 1.

        Returns:
            `(N,)` float64 on the CPU, higher = more OOD.

        Raises:
            UserError: For images of another shape, dtype or range, or an unknown score.
        """
        name = name or self.settings.decision
        if name not in self.score_names(derived=self.calibration is not None):
            raise UserError(f"the detector has no score {name!r}: {', '.join(self.score_names())}")
        scored = self.score_images(images, batch_size=batch_size)
        return torch.tensor([one.row.scores[name] for one in scored], dtype=torch.float64)

    def predict(
        self, images: Tensor, *, accept: float | None = None, batch_size: int = 64
    ) -> Verdicts:
        """Label images, and say which of them not to trust.

        Args:
            images: `(N, C, H, W)` in [0, 1], C = 1 or 3, any size.
            accept: Share of ID images that the threshold accepts; None is `settings.accept`.
            batch_size: Images of every network call, at least 1.

        Raises:
            UserError: For images of another shape, dtype or range, without calibration, or with
                labels of an oracle.
        """
        check_unlabelled(self.settings)
        calibration, name = self.require_calibration(), self.settings.decision
        accept = self.settings.accept if accept is None else accept
        calibration.threshold(name, accept)  # Refuses a wrong share before images are scored.
        rows = [scored.row for scored in self.score_images(images, batch_size=batch_size)]
        scores = [row.scores[name] for row in rows]
        percentiles, is_ood = calibration.verdict(name, scores, accept)
        double: dict[str, Any] = {"dtype": torch.float64}
        return Verdicts(
            label=torch.tensor([row.prediction for row in rows], dtype=torch.int64),
            probability=torch.tensor([row.probability for row in rows], **double),
            score=torch.tensor(scores, **double),
            percentile=torch.tensor(percentiles, **double),
            is_ood=torch.tensor(is_ood, dtype=torch.bool),
        )

    def _measure(self, name: str) -> Distance:
        # Module names must not hold dots, which layer names do.
        key = name.replace(".", "/")
        if key not in self._measures:
            self._measures[key] = build_distance(name, weights=self.settings.perceptual_weights)
        found = self._measures[key]
        if not isinstance(found, Distance):
            raise TypeError(f"{name} is no distance")
        return found

    def _quality(self, name: str) -> Quality:
        """A quality of states against their images, both `(N, C, h, w)`."""
        distance = self._measure(name)

        def views(images: Tensor) -> Views:
            if distance.needs == "images":
                return Views(images)
            layers = [] if distance.layer is None else [distance.layer]
            return views_of(images, self.classifier.forward_features(images, layers))

        return lambda seen, images: distance.quality(views(seen), views(images))

    def null_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise of states `(N, …)` at timesteps `(N,)`, without label.

        Raises:
            UserError: If the model knows classes, but none that means "no label".
        """
        null = self.denoiser.null_class
        if null is None and self.denoiser.num_classes is not None:
            raise UserError(
                "the depth at which images stop cannot be found without labels, and this diffusion "
                "model has no class that means 'no label': give detector.early_stop.thresholds "
                "and leave out mean_depth"
            )
        return self.denoiser.predict_noise(x, t, None if null is None else torch.full_like(t, null))

    def inversion_noise(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise that inversion follows, of states `(N, …)` at timesteps `(N,)`.

        Args:
            x: The states.
            t: Their timesteps.
            labels: `(N,)` predicted labels, for an inversion that sees them.
        """
        inversion = self.settings.inversion
        if inversion.condition == "null":
            return self.null_noise(x, t)
        noise = self.denoiser.predict_noise(x, t, labels)
        if inversion.condition == "label":
            return noise
        return classifier_free(self.null_noise(x, t), noise, inversion.scale)

    def _steering(self) -> ClassifierSteering:
        guidance, crops = self.settings.guidance, self.settings.guidance.crops
        noisy = self.noisy_classifier
        if guidance.classifier == "protected":
            noisy = None
        size = self.classifier.size
        return ClassifierSteering(
            # Random crops are seen whole, without the classifier's own centre crop.
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
