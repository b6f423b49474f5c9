"""Settings that need certain models, weights or labels."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from diffguard.batching import most_rows
from diffguard.classifiers.classifier import Classifier
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import respace
from diffguard.errors import UserError
from diffguard.scores.baseline_checks import check_head_baselines
from diffguard.scores.distance_names import check_size, find_distance
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings
from diffguard.settings.methods import UNLABELED


def check_unlabeled(settings: DetectorSettings) -> None:
    """Refuse settings that need true labels.

    Raises:
        UserError: For an oracle.
    """
    if settings.label == "oracle":
        raise UserError(
            "detector.label oracle, a mode for studies, needs to know which images are "
            "ID: set it to prediction to judge new images"
        )


def check_fitted(settings: DetectorSettings, fits: Collection[str], *, baselines: bool) -> None:
    """Refuse to score with baselines or methods that were not fitted on ID training images.

    Args:
        settings: The settings.
        fits: The methods that are fitted.
        baselines: Whether the baselines are fitted.

    Raises:
        UserError: Naming those that are not.
    """
    methods = [name for name in settings.fitted_methods if name not in fits]
    kinds = {"baselines": [] if baselines else settings.baselines, "methods": methods}
    names = " and ".join(f"{kind} {', '.join(value)}" for kind, value in kinds.items() if value)
    if names:
        raise UserError(
            f"the {names} are not fitted: call "
            "detector.calibrate(validation_loader, reference=train_loader) first"
        )


def check_rows(batch_size: int, classifier: Classifier, image_size: int) -> None:
    """Refuse a batch whose images alone would exhaust the memory.

    Args:
        batch_size: Images of every network call.
        classifier: The classifier, which may take larger images than the working images.
        image_size: Side of the working images in pixels.

    Raises:
        UserError: Naming the most images.
    """
    height, width = classifier.size or (image_size, image_size)
    most = most_rows(classifier.channels, height, width)
    if batch_size > most:
        raise UserError(
            f"a batch of {batch_size:,} images of {height:,} × {width:,} pixels is too large for "
            f"the classifier: expected at most {most:,}"
        )


def sees_labels(settings: DetectorSettings) -> bool:
    """Whether the diffusion model sees labels other than "no label"."""
    free = isinstance(settings.guidance, ClassifierFreeSettings)
    return free or settings.inversion.condition != "null" or "diffnb" in settings.methods


def check_models(
    settings: DetectorSettings,
    classifier: Classifier,
    denoiser: Denoiser,
    noisy_classifier: nn.Module | None,
) -> None:
    """Refuse settings and models that do not fit each other.

    Raises:
        UserError: Naming the setting.
    """
    guidance = settings.guidance
    check_head_baselines(settings.baselines, classifier.head, settings.baseline_parameters)
    check_steps(settings, len(denoiser.schedule))
    if isinstance(guidance, ClassifierGuidanceSettings):
        _check_guiding_classifier(guidance, classifier, noisy_classifier)
    for name in settings.all_distances:
        layer = find_distance(name)[1]
        if layer is not None:
            classifier.layer(layer)
    for name in settings.early_stop.thresholds:
        side = getattr(denoiser, "preview_size", None)
        if side is not None:
            check_size(name, side)
    if sees_labels(settings):
        _check_classes(classifier, denoiser)
    unlabeled = [name for name in settings.methods if name in UNLABELED]
    if unlabeled and denoiser.num_classes is not None and denoiser.null_class is None:
        raise UserError(
            f"detector.methods {unlabeled[0]} needs passes without a label, and this "
            "class-conditional diffusion model has no null class: leave it out, or take another "
            "model"
        )
    if settings.sampler.clip and getattr(denoiser, "has_latents", False):
        raise UserError(
            "detector.sampler.clip clamps pixels to their range, which the latents of this model "
            "do not have: set it to false"
        )


def _check_classes(classifier: Classifier, denoiser: Denoiser) -> None:
    without = (
        "set detector.guidance to classifier, set detector.inversion.condition to null and leave "
        "diffnb out of detector.methods"
    )
    if denoiser.num_classes is None or denoiser.null_class is None:
        raise UserError(
            "classifier-free guidance, an inversion that sees labels and the method diffnb need a "
            f"class-conditional diffusion model with a null class: {without}, or take another model"
        )
    if denoiser.num_classes != classifier.num_classes:
        raise UserError(
            f"the classifier has {classifier.num_classes} classes but the diffusion model "
            f"{denoiser.num_classes}: both must know the same ones, or {without}"
        )


def check_checkerboard(settings: DetectorSettings, denoiser: Denoiser, image_size: int) -> None:
    """Refuse a checkerboard of LMD with more squares than the states have positions.

    Raises:
        UserError: Naming the setting.
    """
    if "lmd" not in settings.methods:
        return
    image = torch.ones(1, image_size, image_size, dtype=torch.bool)
    side = min(denoiser.place_mask(image).shape[-2:])
    if settings.lmd.squares > side:
        raise UserError(
            f"detector.lmd.squares must be at most {side}, the side of the diffusion model's "
            f"states, got {settings.lmd.squares:,}"
        )


def _check_guiding_classifier(
    guidance: ClassifierGuidanceSettings,
    classifier: Classifier,
    noisy_classifier: nn.Module | None,
) -> None:
    crops = guidance.crops
    if crops.number and crops.size is None and classifier.size is None:
        raise UserError(
            "detector.classifier.crops.size is needed, because the classifier takes images of any "
            "size: name the smallest side of a crop in pixels"
        )
    if guidance.model == "noisy" and noisy_classifier is None:
        raise UserError(
            "detector.classifier.model noisy needs a classifier of noisy images: add "
            "noisy_classifier to stages, or take the protected classifier"
        )


def check_steps(settings: DetectorSettings, trained: int) -> None:
    """Check what depends on the respaced timesteps.

    Args:
        settings: The detector's settings.
        trained: Number of timesteps of the diffusion model.

    Raises:
        UserError: Naming the setting.
    """
    sampler, skip = settings.sampler, settings.synthesis.skip
    try:
        steps = len(respace(trained, sampler.steps, sampler.spacing))
    except UserError as error:
        raise UserError(f"detector.sampler: {error}") from error
    if skip is not None and not 0 <= skip < steps:
        raise UserError(
            f"detector.synthesis.skip must be 0 to {steps - 1:,}, below the number of steps, got "
            f"{skip:,}"
        )
    if "msma" in settings.methods and settings.msma.levels > steps:
        raise UserError(
            f"detector.msma.levels must be at most {steps:,}, the number of steps, got "
            f"{settings.msma.levels:,}"
        )
    if "ddpm_ood" in settings.methods:
        settings.ddpm_ood.check_levels(steps)
    mean, most = settings.early_stop.mean_depth, settings.inversion.most_steps(steps)
    if mean is not None and not 1 <= mean * steps <= most:
        raise UserError(
            f"detector.early_stop.mean_depth must lie between {1 / steps:g}, one step, and "
            f"{most / steps:g}, that of detector.inversion.depth, got {mean:g}"
        )
