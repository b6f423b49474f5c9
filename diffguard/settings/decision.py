"""The score that decides on new images."""

from __future__ import annotations

from diffguard.errors import UserError
from diffguard.scores.baseline_table import BASELINES, VALIDATION_BASELINES
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES
from diffguard.scores.reconstruction import ReconstructionQuality
from diffguard.settings.detector import AUTO, DetectorSettings


def decision_of(settings: DetectorSettings, calibration: Calibration | None) -> str:
    """The name of the score that decides.

    `auto` is `fusion` if the diffusion model reconstructs ID validation images well, and otherwise
    `fusion_baselines`.

    Args:
        settings: The detector's settings.
        calibration: Its calibration.

    Raises:
        UserError: For `auto`, if the calibration lacks the quality of the reconstructions.
    """
    if settings.decision != AUTO:
        return settings.decision
    if calibration is None or calibration.quality is None:
        raise UserError(
            "detector.decision auto needs to know how well ID validation images are reconstructed, "
            "which this detector does not hold: calibrate it again, or name a score"
        )
    return FUSION if calibration.quality.is_sound else FUSION_BASELINES


def has_exact_guarantee(settings: DetectorSettings, name: str) -> bool:
    """Whether new ID images and validation images get a score in exactly the same way.

    A combined score and a baseline that is fitted to the validation images are cross-fitted on
    these images, and `early_stop.mean_depth` is met on them.

    Args:
        settings: The detector's settings.
        name: A score that may decide.
    """
    rule = settings.fusion_rule()
    parts = rule.needs(name) if name in rule.derived else [name]
    is_combined = name in rule.derived and (name != DIFFGUARD or len(parts) > 1)
    is_stopped = settings.early_stop.mean_depth is not None and not set(parts) <= set(BASELINES)
    return not (is_combined or is_stopped or set(parts) & set(VALIDATION_BASELINES))


def quality_warning(quality: ReconstructionQuality, decision: str) -> str:
    """A warning of a diffusion model that reconstructs ID images poorly; empty if it does not.

    Args:
        quality: How well some ID validation images are reconstructed.
        decision: The setting `decision`.
    """
    if quality.is_sound:
        return ""
    advice = f"train it longer, or set detector.decision to {AUTO} or {FUSION_BASELINES}"
    if decision == AUTO:
        advice = f"detector.decision {AUTO} therefore decides by {FUSION_BASELINES}"
    return f"the diffusion model reconstructs ID images poorly: {quality}; {advice}"


def fallback_warning(settings: DetectorSettings, calibration: Calibration | None) -> str:
    """A warning that `auto` decides by the baselines; empty if it does not."""
    quality = None if calibration is None else calibration.quality
    if settings.decision != AUTO or quality is None:
        return ""
    return quality_warning(quality, AUTO)
