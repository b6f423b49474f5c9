"""The public class: a detector that is calibrated, saved and loaded."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.checkpoint.build import build_parts, read_parts
from diffguard.checkpoint.file import write_checkpoint
from diffguard.checkpoint.parts import DetectorParts, Origin
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.inputs.labeled import LabeledImages
from diffguard.methods.fit import fit_calibration, fit_method
from diffguard.methods.items import Item
from diffguard.methods.scorer import Scorer, check_batch_size
from diffguard.scores.baselines import Reference
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import DetectorSettings


class Detector(Scorer):
    """DiffGuard around a classifier.

    The detector takes its networks over: they are put in evaluation mode, without gradients, and
    the diffusion network in the memory format and compile mode of the settings.

    Args:
        classifier: The protected classifier.
        denoiser: The diffusion model.
        settings: The settings that define the score.
        image_size: Side in pixels to which images are resized.
        image_channels: Channels to which images are converted, 1 or 3.
        reference: Features of ID training images, for the baselines that need them.
        calibration: Scores of ID validation images; None before calibration.
        noisy_classifier: `(images, t) -> logits`, trained on noisy images; for
            `guidance.classifier = "noisy"`.
        seed: Seed of the randomness that belongs to each image.
        origin: What rebuilds its networks; needed by `save`.

    Raises:
        UserError: If settings contradict each other or do not fit the models.

    Example:
        >>> detector = Detector(classifier, denoiser, settings, image_size=8, image_channels=1)
        >>> batches = [(images, labels)]
        >>> verdicts = detector.calibrate(batches, reference=batches).predict(images[:2])
        >>> verdicts.score.shape, verdicts.is_ood.dtype
        (torch.Size([2]), torch.bool)
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
        origin: Origin | None = None,
    ) -> None:
        super().__init__(
            classifier,
            denoiser,
            settings,
            image_size=image_size,
            image_channels=image_channels,
            reference=reference,
            calibration=calibration,
            noisy_classifier=noisy_classifier,
            seed=seed,
        )
        self.origin = origin or Origin()

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
        """Build a detector from the content of a checkpoint; see `checkpoint.build.build_parts`."""
        parts = build_parts(
            content, trusted=trusted, settings=settings, folder=folder, diffusion=diffusion
        )
        return cls(**vars(parts))

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
            settings: All settings, to use instead of those in the file.
            diffusion: New path of the diffusion model that the file refers to, if it was moved.

        Raises:
            UserError: If the file is missing, damaged, of another version or not a detector, or
                contains anything but plain data.
        """
        parts = read_parts(path, trusted=trusted, settings=settings, diffusion=diffusion)
        return cls(**vars(parts)).to(device)

    def save(
        self,
        path: str | Path,
        classifier_spec: ClassifierSpec | None = None,
        diffusion_spec: DiffusionSpec | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a `detector.ckpt`, from which `load` builds a detector with the same scores.

        Args:
            path: File to write; an older one is replaced at once or not at all.
            classifier_spec: What builds the classifier again; defaults to the known spec.
            diffusion_spec: What builds the diffusion model again; defaults to the known spec.
            config: The config of the run, plain values only; defaults to the known config.
            weights: See `checkpoint.file.write_checkpoint`.

        Raises:
            UserError: If the detector is not calibrated, or a network cannot be built again from a
                spec; the line states what is missing.
        """
        origin = replace(
            self.origin,
            classifier=classifier_spec or self.origin.classifier,
            diffusion=diffusion_spec or self.origin.diffusion,
            config=self.origin.config if config is None else config,
        )
        write_checkpoint(path, replace(self.parts, origin=origin), weights=weights)

    @property
    def parts(self) -> DetectorParts:
        """The arguments that build this detector."""
        return DetectorParts(
            self.classifier,
            self.denoiser,
            self.settings,
            self.image_size,
            self.image_channels,
            self.reference,
            self.calibration,
            self.noisy_classifier,
            self.seed,
            self.origin,
        )

    def calibrate(
        self,
        validation: Iterable[Any],
        *,
        reference: Iterable[Any] | None = None,
        accept: float | None = None,
        batch_size: int = 64,
    ) -> Detector:
        """Calibrate on ID images: check the classifier, fit baselines, early stop and threshold.

        The result is that of `train.py` with the same images, settings and batch size.

        Args:
            validation: ID validation images with labels, see `inputs.labeled.LabeledImages`. The
                classifier must not have been trained on them.
            reference: ID training images with labels, not augmented, for the baselines that need
                them; of more than `settings.reference_images` images, a fixed choice is used.
                Defaults to the features of the last calibration.
            accept: Share of ID images that the threshold accepts, in (0, 1); defaults to
                `settings.accept`.
            batch_size: Images of every network call, at least 1.

        Returns:
            The detector itself. It stays unchanged if calibration fails.

        Raises:
            UserError: If the classifier and the images do not fit together, a baseline needs
                `reference`, or a score does not vary.
        """
        check_batch_size(batch_size)
        form = (self.image_size, self.image_channels, batch_size)
        images, training = LabeledImages(validation, *form), None
        if reference is not None:
            training = LabeledImages(reference, *form, limit=self.settings.reference_images)
        known = self.reference if training is None else None
        settings, features = fit_method(
            self.eval().method, images, training, batch_size, _warn, reference=known
        )
        if accept is not None:
            settings = replace(settings, accept=accept)
        parts = replace(self.parts, settings=settings, reference=features, calibration=None)
        fitted = Detector(**vars(parts)).to(self.device)
        calibration = fit_calibration(plain_scores(fitted, images, batch_size), settings, _warn)
        self.method, self.baselines = fitted.method, fitted.baselines
        self.reference, self.calibration = features, calibration
        return self


def plain_scores(
    detector: Detector, batches: Iterable[Mapping[str, Any]], batch_size: int
) -> dict[str, Tensor]:
    """Score images from batches, without the scores that need calibration.

    Args:
        detector: The detector.
        batches: Batches with `image`, `(N, C, H, W)` of the working size.
        batch_size: Images of every network call.

    Returns:
        Score -> `(n,)` float64 of all n images, in their order.
    """
    stream, rows, count = detector.stream(batch_size, derive=False), [], 0
    for batch in batches:
        items = [Item(image, index=count + i) for i, image in enumerate(batch["image"])]
        count += len(items)
        rows += [result.row for result in stream.push(items)]
    rows += [result.row for result in stream.flush()]
    rows.sort(key=lambda row: row.index)
    return {
        name: torch.tensor([row.scores[name] for row in rows], dtype=torch.float64)
        for name in detector.score_names(derived=False)
    }


def _warn(line: str) -> None:
    warnings.warn(line.removeprefix("warning: "), stacklevel=3)
