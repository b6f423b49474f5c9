"""All that can be wrong with a detector's settings, in one place."""

from __future__ import annotations

from torch import nn

from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.latent import LatentDenoiser
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import respace
from diffguard.errors import UserError
from diffguard.scores.baselines import check_head_baselines
from diffguard.scores.distances import build_distance, find_distance
from diffguard.settings.checks import _check_size
from diffguard.settings.detector import DetectorSettings


def check_weights(settings: DetectorSettings) -> None:
    """Refuse perceptual distances whose weights are not there; reads those that are.

    Raises:
        UserError: Naming the file that is missing.
    """
    for name in {*settings.distances, *settings.unguided, *settings.early_stop.thresholds}:
        if find_distance(name)[0].perceptual:
            build_distance(name, weights=settings.perceptual_weights)


def check_unlabelled(settings: DetectorSettings) -> None:
    """Refuse settings under which images whose label nobody knows cannot be judged.

    Raises:
        UserError: For an oracle.
    """
    if settings.guidance.label == "oracle":
        raise UserError(
            "detector.guidance.label oracle, a mode for studies, needs to know which images are "
            "ID: set it to prediction to judge new images"
        )


def sees_labels(settings: DetectorSettings) -> bool:
    """Whether the diffusion model sees labels other than "no label"."""
    return settings.guidance.kind == "classifier_free" or settings.inversion.condition != "null"


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
    check_head_baselines(settings.baselines, classifier.head, settings.vim_dim)
    check_steps(settings, len(denoiser.schedule))
    crops = guidance.crops
    if crops.number and crops.size is None and classifier.size is None:
        raise UserError(
            "detector.guidance.crops.size is needed, because the classifier takes images of any "
            "size: name the smallest side of a crop in pixels"
        )
    for name in (*settings.distances, *settings.unguided, *settings.early_stop.thresholds):
        layer = find_distance(name)[1]
        if layer is not None:
            classifier.layer(layer)
    for name in settings.early_stop.thresholds:
        _check_size(name, getattr(denoiser, "preview_size", None))
    if guidance.classifier == "noisy" and (noisy_classifier is None or guidance.blend):
        raise UserError(
            "detector.guidance.classifier noisy needs a classifier of noisy images (add "
            "noisy_classifier to stages) and detector.guidance.blend false"
        )
    needs_classes = sees_labels(settings)
    if needs_classes and (denoiser.num_classes is None or denoiser.null_class is None):
        raise UserError(
            "classifier-free guidance and an inversion that sees labels need a class-conditional "
            "diffusion model with a null class: set detector.guidance.kind to classifier and "
            "detector.inversion.condition to null, or take another model"
        )
    if settings.sampler.clip and isinstance(denoiser, LatentDenoiser):
        raise UserError(
            "detector.sampler.clip clamps pixels to their range, which the latents of this model "
            "do not have: set it to false"
        )
    if needs_classes and denoiser.num_classes != classifier.num_classes:
        raise UserError(
            f"the classifier has {classifier.num_classes} classes but the diffusion model "
            f"{denoiser.num_classes}: both must know the same ones, or set detector.guidance.kind "
            "to classifier and detector.inversion.condition to null"
        )


def check_steps(settings: DetectorSettings, trained: int) -> None:
    """Check what depends on the respaced timesteps.

    Args:
        settings: The detector's settings.
        trained: Number of timesteps of the diffusion model.

    Raises:
        UserError: Naming the setting.
    """
    sampler, skip = settings.sampler, settings.guidance.skip
    try:
        steps = len(respace(trained, sampler.steps, sampler.spacing))
    except UserError as error:
        raise UserError(f"detector.sampler: {error}") from error
    if skip is not None and not 0 <= skip < steps:
        raise UserError(
            f"detector.guidance.skip must be 0 to {steps - 1:,}, below the number of steps, got "
            f"{skip:,}"
        )
    mean, most = settings.early_stop.mean_depth, settings.inversion.most_steps(steps)
    if mean is not None and not 1 <= mean * steps <= most:
        raise UserError(
            f"detector.early_stop.mean_depth must lie between {1 / steps:g}, one step, and "
            f"{most / steps:g}, that of detector.inversion.depth, got {mean:g}"
        )
