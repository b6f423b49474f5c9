"""What is fitted on ID images before they are scored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffguard.batching import ROW_MULTIPLE, padded
from diffguard.classifiers.check import check_head, check_labels
from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.baseline_fits import fit_baselines
from diffguard.methods.classifier_trial import looks_like_sigmoid, try_classifier
from diffguard.methods.depth import fit_early_stop
from diffguard.methods.items import readable
from diffguard.methods.models import Models
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.quality import reconstruction_quality
from diffguard.methods.reference import TrainingImages, fit_reference
from diffguard.methods.registry import Fits, build_methods
from diffguard.scores.baseline_checks import check_head_baselines
from diffguard.scores.baseline_table import FITTED_BASELINES, HEAD_BASELINES
from diffguard.scores.calibration import ENOUGH_IMAGES, Calibration
from diffguard.scores.conformal import as_percent, needed_images
from diffguard.scores.drift import FeatureSample
from diffguard.scores.reconstruction import ReconstructionQuality
from diffguard.scores.reference import Reference
from diffguard.settings.decision import quality_warning
from diffguard.settings.detector import DetectorSettings

Batches = Iterable[Mapping[str, Any]]
Warn = Callable[[str], None]
Precision = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fitted:
    """What was fitted before scoring.

    Attributes:
        models: The networks, with the thresholds of early stop in their settings.
        reference: Features of ID training images; None if no baseline needs them.
        fits: Method or baseline -> what was fitted on ID training or validation images.
        validation_scores: Baseline -> `(n,)` cross-fitted scores of the n ID validation images, in
            their order, for the baselines that are fitted to these images.
        features: `(m, D)` of some ID validation images.
        quality: How well some of these images are reconstructed.
    """

    models: Models
    reference: Reference | None
    fits: Fits
    validation_scores: dict[str, torch.Tensor]
    features: torch.Tensor
    quality: ReconstructionQuality


def fit_models(
    models: Models,
    validation: Batches,
    training: TrainingImages | None,
    batch_size: int,
    warn: Warn,
    *,
    reference: Reference | None = None,
    fits: Fits | None = None,
    precision: Precision = nullcontext,
    refuse: bool = True,
) -> Fitted:
    """Fit everything that scoring needs; calibration then follows from scores.

    Args:
        models: The networks and settings, on their device.
        validation: Batches of the ID validation images, which are read several times, in the same
            order.
        training: The ID training images; None if nothing is fitted on them.
        batch_size: Rows of every network call.
        warn: Is called with each warning.
        reference: Features of ID training images that are known already.
        fits: Fits of methods that are known already.
        precision: Enters the precision of the networks' calls.
        refuse: Whether a classifier with another order of classes is an error or a warning.

    Raises:
        UserError: If the classifier and the images do not fit together, or a baseline or a method
            needs training images and there are none.
    """
    settings = models.settings
    wants_reference = reference is None and settings.needs_reference
    fits = dict(fits or {})
    methods = [name for name in settings.fitted_methods if name not in fits]
    if training is None:
        names = [name for name in settings.baselines if name in FITTED_BASELINES]
        _refuse_without_training(names if wants_reference else [], methods)
    features = check_classifier(models, validation, batch_size, warn, refuse=refuse)
    with precision():
        if wants_reference and training is not None:
            reference = fit_reference(models, training, batch_size)
        thresholds = fit_early_stop(models, validation, batch_size)
        stop = settings.early_stop
        stop = replace(stop, thresholds={**stop.thresholds, **thresholds})
        fitted = models.with_settings(replace(settings, early_stop=stop))
        baselines = fit_baselines(fitted, validation, batch_size)
        fits |= baselines.fits
        if training is not None:
            fits |= fit_methods(fitted, training.batches, batch_size, methods)
        quality = reconstruction_quality(fitted, validation, batch_size)
    if text := quality_warning(quality, settings.decision):
        warn(f"warning: {text}")
    return Fitted(fitted, reference, fits, baselines.scores, features, quality)


def _refuse_without_training(baselines: Sequence[str], methods: Sequence[str]) -> None:
    for kind, names in {"baseline": baselines, "method": methods}.items():
        if names:
            raise UserError(
                f"{kind} {names[0]} is fitted on ID training images: give a loader of them as "
                f"reference, or leave {', '.join(names)} out of detector.{kind}s"
            )


@reproducible()
def fit_methods(
    models: Models, training: Callable[[int], Batches], batch_size: int, names: Sequence[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """Fit some methods of the settings on ID training images; see `Method.fit`."""
    fits = {}
    for method in build_methods(models, {}):
        if method.name in names:
            sampler, images = method.recipe.sampler, training(method.images)
            outcomes = outcomes_of(models, sampler, method.program(), images, batch_size)
            first = next(outcomes, None)
            if first is None:
                raise UserError("no ID training image can be read: check their files")
            fits[method.name] = method.fit(itertools.chain([first], outcomes))
    return fits


def fit_calibration(
    scores: Mapping[str, torch.Tensor],
    settings: DetectorSettings,
    warn: Warn,
    features: torch.Tensor | None = None,
    passes: torch.Tensor | None = None,
    quality: ReconstructionQuality | None = None,
) -> Calibration:
    """Calibrate, and warn if there are few images.

    Args:
        scores: Score -> `(n,)` of the n ID validation images, higher = more OOD.
        settings: The detector's settings.
        warn: Is called with the warning.
        features: `(m, D)` of some ID validation images.
        passes: `(n,)` network passes of the ID validation images.
        quality: How well some of them are reconstructed.

    Raises:
        UserError: If there are fewer than two images, a score does not vary, scores are of
            different numbers of images, or the budget of a cascade is too small.
    """
    if len({len(values) for values in scores.values()}) > 1:
        raise UserError(
            "some ID validation images could be read only once: check their files, and calibrate "
            "again in a new folder"
        )
    passes = None if passes is None else passes.double()
    calibration = Calibration.fit(scores, settings.fusion_rule(), features, passes, quality)
    count = calibration.count
    if count < needed_images(settings.accept):
        warn(
            f"warning: with only {count} ID validation images, the detector gives scores but no "
            f"verdicts: to accept {as_percent(settings.accept)} of ID images takes at least "
            f"{needed_images(settings.accept)}"
        )
    elif count < ENOUGH_IMAGES:
        low, high = calibration.accept_interval(settings.accept)
        warn(
            f"warning: with only {count} ID validation images, the threshold accepts "
            f"{low:.0%} to {high:.0%} of new ID images (95% interval) instead of "
            f"{as_percent(settings.accept)}; {ENOUGH_IMAGES} or more images narrow the interval"
        )
    return calibration


@reproducible()
def check_classifier(
    models: Models, loader: Any, batch_size: int, warn: Warn, *, refuse: bool = True
) -> torch.Tensor:
    """Check the classifier on ID validation images before they are scored.

    Args:
        models: The networks and settings.
        loader: Batches of the ID validation images.
        batch_size: Rows of every network call.
        warn: Is called with each warning.
        refuse: Whether another order of its classes is an error or a warning.

    Returns:
        The features `(n, D)` of a random choice of these images, see `FeatureSample`.

    Raises:
        UserError: If its classes are in another order, its outputs are not logits or differ from
            pass to pass, a gradient in use is cut, or a baseline needs another last layer.
    """
    classifier, settings = models.classifier, models.settings
    check_head_baselines(settings.baselines, classifier.head, settings.baseline_parameters)
    needs_head = [name for name in settings.baselines if name in HEAD_BASELINES]
    labels: list[torch.Tensor] = []
    predictions: list[torch.Tensor] = []
    sigmoid, sample = True, FeatureSample()
    for images, true in readable(loader):
        images = images.to(models.device)
        if not labels:
            try_classifier(classifier, padded(images[:ROW_MULTIPLE], ROW_MULTIPLE), settings)
        output = models.classify(images, batch_size)
        check_head(classifier.head, output, needs_head)
        sample.add(output.features)
        sigmoid &= looks_like_sigmoid(output.logits)
        labels.append(true.cpu())
        predictions.append(output.logits.argmax(1).cpu())
    if not labels:
        raise UserError("no ID validation image can be read: check their files")
    if sigmoid:
        warn(
            "warning: all outputs of the classifier lie between 0 and 1, as behind a sigmoid, and "
            "are treated as logits: if they are not, remove the sigmoid from its forward"
        )
    names = classifier.class_names
    if warning := check_labels(torch.cat(labels), torch.cat(predictions), names, refuse=refuse):
        warn(warning)
    return sample.features()
