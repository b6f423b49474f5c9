"""The score that decides on new images."""

from __future__ import annotations

from diffguard.errors import UserError
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import FUSION, FUSION_BASELINES
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
