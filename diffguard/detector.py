"""The detector: a classifier, a diffusion model, settings and what calibration found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.batching import fixed_batch_size
from diffguard.checkpoint.build import build_parts, read_parts
from diffguard.checkpoint.file import write_checkpoint
from diffguard.checkpoint.parts import DetectorParts
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.engine.acceleration import accelerate
from diffguard.errors import UserError
from diffguard.images import check_images, to_working_size
from diffguard.methods.checks import check_unlabelled
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.items import Item, Scored
from diffguard.methods.stream import ScoreStream
from diffguard.scores.baselines import Baselines, Reference
from diffguard.scores.calibration import Calibration
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
        self.method = DiffGuard(
            classifier,
            denoiser,
            settings,
            image_size=image_size,
            image_channels=image_channels,
            noisy_classifier=noisy_classifier,
            seed=seed,
        )
        self.reference = reference
        self.calibration = calibration
        self.baselines = Baselines(
            settings.baselines,
            reference,
            classifier.head,
            knn_k=settings.knn_k,
            vim_dim=settings.vim_dim,
        )

    @classmethod
    def from_parts(cls, parts: DetectorParts) -> Detector:
        """A detector of given parts."""
        return cls(**vars(parts))

    @classmethod
    def from_checkpoint(
        cls,
        content: Mapping[str, Any],
        *,
        trusted: str | Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        diffusion: str | None = None,
    ) -> Detector:
        """Build the detector of a checkpoint that was read; see `checkpoint.build.build_parts`."""
        return cls.from_parts(
            build_parts(
                content, trusted=trusted, settings=settings, folder=folder, diffusion=diffusion
            )
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        trusted: str | Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
        diffusion: str | None = None,
    ) -> Detector:
        """Load a `detector.ckpt`.

        Args:
            path: The file.
            device: Device to load it to.
            trusted: Import paths of further classes that the file may name.
            settings: Settings instead of the stored ones, in full.
            diffusion: Present path of a diffusion model that the file refers to, if it was moved.

        Raises:
            UserError: For a file that is missing, foreign, damaged, of another version, or that
                holds anything but plain data.
        """
        parts = read_parts(path, trusted=trusted, settings=settings, diffusion=diffusion)
        return cls.from_parts(parts).to(device)

    def save(
        self,
        path: str | Path,
        classifier_spec: ClassifierSpec,
        diffusion_spec: DiffusionSpec,
        config: Mapping[str, Any],
        *,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a `detector.ckpt`; see `checkpoint.file.write_checkpoint`.

        Raises:
            UserError: If the detector is not calibrated, or its denoiser is not a module.
        """
        parts = DetectorParts(
            self.classifier,
            self.denoiser,
            self.settings,
            self.image_size,
            self.image_channels,
            self.reference,
            self.calibration,
            self.noisy_classifier,
            self.seed,
        )
        write_checkpoint(path, parts, classifier_spec, diffusion_spec, config, weights=weights)

    def train(self, mode: bool = True) -> Detector:  # noqa: ARG002
        """Stay in evaluation mode, whatever the mode of a module around the detector.

        In training mode the classifier's normalization layers would learn from the images that
        are judged, and dropout would change their scores.
        """
        return super().train(mode=False)

    @property
    def classifier(self) -> Classifier:
        """The protected classifier."""
        return self.method.classifier

    @property
    def denoiser(self) -> Denoiser:
        """The diffusion model."""
        return self.method.denoiser

    @property
    def noisy_classifier(self) -> nn.Module | None:
        """The classifier of noisy images, if there is one."""
        return self.method.noisy_classifier

    @property
    def settings(self) -> DetectorSettings:
        """The settings that define the score."""
        return self.method.settings

    @property
    def image_size(self) -> int:
        """Side of the working images in pixels."""
        return self.method.image_size

    @property
    def image_channels(self) -> int:
        """Channels of the working images, 1 or 3."""
        return self.method.image_channels

    @property
    def seed(self) -> int:
        """Seed of the randomness that belongs to each image."""
        return self.method.seed

    @property
    def device(self) -> torch.device:
        """The device of the classifier's weights."""
        return self.method.device

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
        # A part may have been put into training mode on its own.
        self.eval()
        network, settings = getattr(self.denoiser, "network", None), self.settings
        if isinstance(network, nn.Module):
            accelerate(network, compile=settings.compile, channels_last=settings.channels_last)
        calibration = self.calibration if derive else None
        return ScoreStream(self.method, self.baselines, calibration, batch_size, unguided=unguided)

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
