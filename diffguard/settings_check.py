"""All that can be wrong with a detector's settings, in one place."""

from __future__ import annotations

from typing import get_args

from torch import nn

from diffguard.calibration import FUSION, FUSION_BASELINES
from diffguard.classifiers import Classifier
from diffguard.denoisers import Denoiser
from diffguard.errors import UserError
from diffguard.guidance import Reduction
from diffguard.latent import LatentDenoiser
from diffguard.schedule import FirstLevel, Pairing, Spacing
from diffguard.settings import (
    Combine,
    Condition,
    DetectorSettings,
    GuidingClassifier,
    Kind,
    LabelSource,
)


def check_settings(
    settings: DetectorSettings,
    classifier: Classifier,
    denoiser: Denoiser,
    noisy_classifier: nn.Module | None,
) -> None:
    """Refuse settings that do not fit each other or the models.

    Raises:
        UserError: Naming the setting.
    """
    inversion, guidance = settings.inversion, settings.guidance
    _check_choices(settings)
    _check_sampling(settings)
    _check_crops(settings, classifier)
    known = [*settings.distances, *(f"unguided/{name}" for name in settings.unguided)]
    absent = [name for name in settings.distance if name not in known]
    if absent or not settings.distance:
        raise UserError(
            f"detector.distance names {', '.join(absent) or 'nothing'}, which is not computed: "
            f"expected some of {', '.join(known)} (see detector.distances and detector.unguided)"
        )
    low, high = (*settings.tandem_band, 0.0, 0.0)[:2]
    if len(settings.tandem_band) != 2 or not 0 < low < high < 1:
        raise UserError(
            "detector.tandem_band must be two rising shares between 0 and 1, got "
            f"{settings.tandem_band}"
        )
    missing = [name for name in settings.fused if name not in settings.baselines]
    if missing:
        raise UserError(f"detector.fused names {missing[0]!r}, which detector.baselines lacks")
    if settings.decision in (FUSION, FUSION_BASELINES) and not settings.fused:
        raise UserError(
            f"detector.decision is {settings.decision}, but nothing is fused: name baselines in "
            "detector.fused, or decide by diffguard"
        )
    if guidance.classifier == "noisy" and (noisy_classifier is None or guidance.blend):
        raise UserError(
            "detector.guidance.classifier noisy needs a classifier of noisy images (add "
            "noisy_classifier to stages) and detector.guidance.blend false"
        )
    needs_classes = guidance.kind == "classifier_free" or inversion.condition != "null"
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
    if denoiser.num_classes not in (None, classifier.num_classes):
        raise UserError(
            f"the classifier has {classifier.num_classes} classes but the diffusion model "
            f"{denoiser.num_classes}: both must know the same ones"
        )


def _check_choices(settings: DetectorSettings) -> None:
    """From Python nothing has checked the types yet."""
    sampler, guidance = settings.sampler, settings.guidance
    choices = {
        "sampler.spacing": (sampler.spacing, Spacing),
        "sampler.pairing": (sampler.pairing, Pairing),
        "sampler.first_level": (sampler.first_level, FirstLevel),
        "inversion.condition": (settings.inversion.condition, Condition),
        "guidance.kind": (guidance.kind, Kind),
        "guidance.classifier": (guidance.classifier, GuidingClassifier),
        "guidance.label": (guidance.label, LabelSource),
        "guidance.crops.reduction": (guidance.crops.reduction, Reduction),
        "combine": (settings.combine, Combine),
    }
    for name, (value, allowed) in choices.items():
        if value not in get_args(allowed):
            expected = " or ".join(get_args(allowed))
            raise UserError(f"detector.{name} must be {expected}, got {value!r}")


def _check_sampling(settings: DetectorSettings) -> None:
    steps, guidance, stop = settings.sampler.steps, settings.guidance, settings.early_stop
    if not 0 < settings.inversion.depth <= 1:
        raise UserError(
            f"detector.inversion.depth must lie in (0, 1], got {settings.inversion.depth:g}"
        )
    if guidance.skip is not None and not 0 <= guidance.skip < steps:
        raise UserError(
            f"detector.guidance.skip must be 0 … {steps - 1}, below detector.sampler.steps, got "
            f"{guidance.skip}"
        )
    if guidance.extra_start < 0:
        raise UserError(
            f"detector.guidance.extra_start must be at least 0, got {guidance.extra_start}"
        )
    cut = guidance.cam_cut
    if cut is not None and (not -1 <= cut <= 1 or guidance.kind != "classifier_free"):
        raise UserError(
            "detector.guidance.cam_cut must lie in [-1, 1] and belongs to kind classifier_free, "
            f"got {cut:g} with {guidance.kind}"
        )
    if stop.mean_depth is not None and not stop.thresholds:
        raise UserError(
            "detector.early_stop.mean_depth needs a quality that it is reached by: name one in "
            "detector.early_stop.thresholds, such as {psnr: null}"
        )


def _check_crops(settings: DetectorSettings, classifier: Classifier) -> None:
    crops, name = settings.guidance.crops, "detector.guidance.crops"
    if crops.number < 0 or (crops.size is not None and crops.size < 1):
        raise UserError(
            f"{name}.number must be at least 0 and {name}.size at least 1, got {crops.number} and "
            f"{crops.size}"
        )
    if crops.number and crops.size is None and classifier.size is None:
        raise UserError(
            f"{name}.size is needed, because the classifier takes images of any size: name the "
            "smallest side of a crop in pixels"
        )
