"""All that can be wrong with a detector's settings by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from diffguard.diffusion.guidance import Reduction
from diffguard.diffusion.schedule import FirstLevel, Pairing, Spacing
from diffguard.errors import UserError
from diffguard.scores.baselines import check_names
from diffguard.scores.calibration import FUSION, FUSION_BASELINES
from diffguard.scores.distances import find_distance
from diffguard.settings.detector import Combine, DetectorSettings, score_names, to_dict
from diffguard.settings.effect import check_effect
from diffguard.settings.sections import (
    Condition,
    GuidanceSettings,
    GuidingClassifier,
    Kind,
    LabelSource,
)
from diffguard.storage.arguments import LARGEST_SIDE

MOST_CROPS = 10_000


def check_settings(settings: DetectorSettings, image_size: int) -> None:
    """Refuse settings that are wrong with any models, so that it is said before one is trained.

    Args:
        settings: The settings.
        image_size: Side of the working images in pixels.

    Raises:
        UserError: Naming the setting.
    """
    _check_choices(settings)
    _check_repeated(settings)
    _check_finite("detector", to_dict(settings))
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size must be a whole number of at least 1, got {image_size!r}")
    if settings.sampler.steps < 1:
        raise UserError(
            f"detector.sampler.steps must be at least 1, got {settings.sampler.steps:,}"
        )
    if not 0 < settings.inversion.depth <= 1:
        raise UserError(
            f"detector.inversion.depth must lie in (0, 1], got {settings.inversion.depth:g}"
        )
    if settings.inversion.scale < 0:
        raise UserError(
            f"detector.inversion.scale must be at least 0, got {settings.inversion.scale:g}"
        )
    stop = settings.early_stop
    if stop.mean_depth is not None and not stop.thresholds:
        raise UserError(
            "detector.early_stop.mean_depth needs a quality that it is reached by: name one in "
            "detector.early_stop.thresholds, such as {psnr: null}"
        )
    _check_guidance(settings.guidance)
    _check_distances(settings, image_size)
    _check_decision(settings)
    check_effect(settings)


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


def _check_repeated(settings: DetectorSettings) -> None:
    """A name that is given twice would have twice the weight."""
    for key in ("distances", "unguided", "distance", "baselines", "fused"):
        names = getattr(settings, key)
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"detector.{key} names {name} more than once: name it once")


def _check_finite(section: str, values: Mapping[Any, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _check_finite(f"{section}.{name}", value)
        elif isinstance(value, list):
            _check_finite(f"{section}.{name}", dict(enumerate(value)))
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{section}.{name} must be a finite number, got {value}")


def _check_guidance(guidance: GuidanceSettings) -> None:
    if guidance.scale < 0:
        raise UserError(
            f"detector.guidance.scale must be at least 0, which is no guidance, got "
            f"{guidance.scale:g}"
        )
    if guidance.extra_start < 0:
        raise UserError(
            f"detector.guidance.extra_start must be at least 0, got {guidance.extra_start:,}"
        )
    crops, free = guidance.crops, guidance.kind == "classifier_free"
    if crops.number < 0 or (crops.size is not None and crops.size < 1):
        raise UserError(
            "detector.guidance.crops.number must be at least 0 and detector.guidance.crops.size "
            f"at least 1, got {crops.number} and {crops.size}"
        )
    if crops.number > MOST_CROPS or (crops.size or 0) > LARGEST_SIDE:
        raise UserError(
            f"detector.guidance.crops.number must be at most {MOST_CROPS:,} and "
            f"detector.guidance.crops.size at most {LARGEST_SIDE}, got {crops.number} and "
            f"{crops.size}"
        )
    if free and (crops.number or guidance.classifier == "noisy"):
        raise UserError(
            "detector.guidance.crops and detector.guidance.classifier belong to kind classifier, "
            f"got {crops.number} crops and {guidance.classifier} with {guidance.kind}"
        )
    cut = guidance.cam_cut
    if cut is not None and not (-1 <= cut <= 1 and free):
        raise UserError(
            "detector.guidance.cam_cut must lie in [-1, 1] and belongs to kind classifier_free, "
            f"got {cut:g} with {guidance.kind}"
        )


def _check_distances(settings: DetectorSettings, image_size: int) -> None:
    for name in (*settings.distances, *settings.unguided):
        _check_size(name, image_size)
    for name in (*settings.distance, *settings.early_stop.thresholds):
        find_distance(name.removeprefix("unguided/"))
    known = [*settings.distances, *(f"unguided/{name}" for name in settings.unguided)]
    absent = [name for name in settings.distance if name not in known]
    if not known:
        raise UserError("detector.distances and detector.unguided name no distance: name one")
    if absent or not settings.distance:
        raise UserError(
            f"detector.distance names {', '.join(absent) or 'nothing'}, which is not computed: "
            f"expected some of {', '.join(known)} (see detector.distances and detector.unguided)"
        )
    if settings.combine == "tandem" and len(settings.distance) < 2:
        raise UserError(
            "detector.combine tandem needs two or more in detector.distance, got "
            f"{settings.distance[0]} alone"
        )
    band = settings.tandem_band
    if len(band) != 2 or not 0 < band[0] < band[1] < 1:
        raise UserError(
            f"detector.tandem_band must be two rising shares between 0 and 1, got {band}"
        )


def _check_size(name: str, side: int | None) -> None:
    smallest = find_distance(name)[0].smallest
    if side is not None and side < smallest:
        raise UserError(
            f"{name} needs images of at least {smallest} px, and here they have {side}: take "
            "another distance, such as ssim"
        )


def _check_decision(settings: DetectorSettings) -> None:
    check_names(settings.baselines)
    missing = [name for name in settings.fused if name not in settings.baselines]
    if missing:
        raise UserError(f"detector.fused names {missing[0]!r}, which detector.baselines lacks")
    if settings.decision in (FUSION, FUSION_BASELINES) and not settings.fused:
        raise UserError(
            f"detector.decision is {settings.decision}, but nothing is fused: name baselines in "
            "detector.fused, or decide by diffguard"
        )
    names = score_names(settings)
    if settings.decision not in names:
        raise UserError(
            f"detector.decision: there is no score {settings.decision!r}, expected one of "
            f"{', '.join(names)}"
        )
    for name in ("knn_k", "reference_images", "vim_dim"):
        count = getattr(settings, name)
        if count is not None and count < 1:
            raise UserError(f"detector.{name} must be at least 1, got {count:,}")
    if not 0 < settings.accept < 1:
        raise UserError(f"detector.accept must lie between 0 and 1, got {settings.accept:g}")
