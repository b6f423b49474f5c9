"""All that can be wrong with a detector's settings, in one place."""

from __future__ import annotations

from torch import nn

from diffguard.calibration import FUSION, FUSION_BASELINES
from diffguard.classifiers import Classifier
from diffguard.denoisers import Denoiser
from diffguard.errors import UserError
from diffguard.latent import LatentDenoiser
from diffguard.settings import DetectorSettings


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
    if not 0 < inversion.depth <= 1:
        raise UserError(f"detector.inversion.depth must lie in (0, 1], got {inversion.depth:g}")
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
            "classifier-free guidance needs a class-conditional diffusion model with a null "
            "class: set detector.guidance.kind to classifier, or take another model"
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
