"""The public class: a detector that is calibrated, saved and loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from torch.utils.data import Dataset

from diffguard.batching import BATCH_SIZE
from diffguard.checkpoint.build import build_parts, read_parts
from diffguard.checkpoint.file import write_checkpoint
from diffguard.checkpoint.parts import DetectorParts, Origin, data_config
from diffguard.classifiers.assembly import ClassifierOptions, assembled_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.assembly import opened_diffusion
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.hub import HubMixin
from diffguard.methods.calibrated import calibrated
from diffguard.methods.checks import sees_labels
from diffguard.methods.drift import DriftScorer
from diffguard.methods.explainer import Explainer
from diffguard.methods.models import Models
from diffguard.methods.registry import Fits
from diffguard.scores.calibration import Calibration
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.plain import from_dict


class Detector(Explainer, DriftScorer, HubMixin):
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
        noisy_classifier: `(images, t) -> logits`, which guides if `guidance.model` is `noisy`.
        seed: Seed of the randomness that belongs to each image.
        fits: What methods and baselines were fitted to, by their names.
        origin: What rebuilds its networks; needed by `save`.

    Raises:
        UserError: If settings contradict each other or do not fit the models.

    Example:
        >>> detector = Detector(classifier, denoiser, settings, image_size=8, image_channels=1)
        >>> detector = detector.calibrate([(images, labels)], reference=[(images, labels)])
        >>> detector.predict(images[:2]).score.shape
        torch.Size([2])
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
        fits: Fits | None = None,
        origin: Origin | None = None,
    ) -> None:
        models = Models(
            classifier, denoiser, settings, image_size=image_size, image_channels=image_channels,
            noisy_classifier=noisy_classifier, seed=seed,
        )  # fmt: skip
        super().__init__(models, reference=reference, fits=fits, calibration=calibration)
        self.origin = origin or Origin()

    @classmethod
    def from_parts(
        cls,
        classifier: nn.Module | ClassifierSpec,
        diffusion: Denoiser | str | Path,
        *,
        preprocess: Any = None,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        settings: DetectorSettings | Mapping[str, Any] | None = None,
        image_size: int | None = None,
        image_channels: int | None = None,
        feature_layer: str | None = None,
        cam_layer: str | None = None,
        weights: str | Path | None = None,
        diffusion_options: CheckpointOptions | None = None,
        seed: int = 0,
        **options: Unpack[ClassifierOptions],
    ) -> Detector:
        """Build a detector, still to be calibrated, on the classifier's device.

        Args:
            classifier: A module `(N, C, H, W) -> (N, K)` logits, or a spec.
            diffusion: A denoiser; the path of a diffusers folder or of a file in a known format; or
                a hub id, which is downloaded unless it is cached.
            preprocess: The classifier's transforms, see `classifiers.transforms.preprocessing_of`.
            class_names: Names of the classes, in the order of the logits.
            num_classes: Number of classes, if they have no names.
            settings: Settings, or those that differ from the defaults as nested dictionaries.
            image_size: Side of the working images in pixels; defaults to the diffusion model's.
            image_channels: Their channels, 1 or 3; defaults to the diffusion model's.
            feature_layer: Layer whose input is the features; defaults to the last layer.
            cam_layer: Layer for Grad-CAM; defaults to the last layer with feature maps.
            weights: For a spec: a file of weights, or `pretrained` for the library's.
            diffusion_options: What a file of weights does not contain about its model.
            seed: Seed of the randomness that belongs to each image.
            **options: See `classifiers.assembly.ClassifierOptions`.

        Raises:
            UserError: If something cannot be found or loaded; the line names what to give.
        """
        if not isinstance(settings, DetectorSettings):
            settings = from_dict(settings or {})
        arguments = {
            "preprocess": preprocess,
            "class_names": class_names,
            "num_classes": num_classes,
            "feature_layer": feature_layer,
            "cam_layer": cam_layer,
        }
        network, spec = assembled_classifier(classifier, weights, arguments, options)
        names = network.class_names
        model = opened_diffusion(
            diffusion, names, sees_labels(settings), image_size, image_channels, diffusion_options
        )
        size = (model.image_size, model.image_channels)
        origin = Origin(spec, model.spec, model.source, data_config(*size, names))
        parts = DetectorParts(network, model.denoiser, settings, *size, seed=seed, origin=origin)
        detector = cls(**vars(parts))
        return detector.to(detector.device)

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
        """Load a `detector.ckpt`; warns if `decision: auto` decides by the baselines alone.

        Args:
            path: The file, or `demo` for the shipped detector; an existing path wins.
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
            UserError: If the detector is not calibrated, or nothing builds a network again.
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
        return DetectorParts(**{f.name: getattr(self, f.name) for f in fields(DetectorParts)})

    def calibrate(
        self,
        validation: Iterable[Any] | Dataset[Any],
        *,
        reference: Iterable[Any] | Dataset[Any] | None = None,
        accept: float | None = None,
        batch_size: int = BATCH_SIZE,
        progress: bool = True,
        check_labels: bool = True,
    ) -> Detector:
        """Calibrate on ID images: check the classifier, fit baselines, early stop and threshold.

        A training run gives the same result with the same images, settings and batch size.

        Args:
            validation: ID validation images with labels, see `inputs.labeled.LabeledImages`, in the
                same order at each reading. The classifier must not have been trained on them.
            reference: ID training images with labels, not augmented, for baselines that need them
                (at most `settings.reference_images`); defaults to those of the last calibration.
            accept: Share of ID images to accept, in (0, 1); defaults to `settings.accept`.
            batch_size: Images of every network call, at least 1.
            progress: Report the number of scored images on standard error.
            check_labels: Refuse a classifier with another order of classes; false only warns.

        Returns:
            The detector itself; it stays unchanged if calibration fails.

        Raises:
            UserError: If the classifier and the images do not fit together, a baseline needs
                `reference`, a score does not vary, or a loader is shuffled (`temperature`, `klm`).
        """
        fitted = calibrated(self, validation, reference, accept, batch_size, progress, check_labels)
        self.models, self.baselines, self.fits = fitted.models, fitted.baselines, fitted.fits
        self.reference, self.calibration = fitted.reference, fitted.calibration
        return self
