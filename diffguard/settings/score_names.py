"""Which scores exist for images that skip the diffusion model."""

from __future__ import annotations

from diffguard.scores.fusion_rule import FUSION, FUSION_BASELINES
from diffguard.settings.detector import DetectorSettings, score_names


def complete_score_names(settings: DetectorSettings) -> list[str]:
    """The scores that every image has: in a cascade, clear images skip the diffusion model."""
    names = score_names(settings)
    if not settings.fusion.is_cascade:
        return names
    return [name for name in names if name in (*settings.baselines, FUSION, FUSION_BASELINES)]


def baseline_score_names(settings: DetectorSettings) -> list[str]:
    """The scores that need no diffusion model."""
    names, compared = list(settings.baselines), settings.fusion_rule().compared
    if compared and set(compared) <= set(names):
        names.append(FUSION_BASELINES)
    return names
