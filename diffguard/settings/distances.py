"""The distances that the settings of a detector name in all their sections."""

from __future__ import annotations

from diffguard.settings.detector import DetectorSettings
from diffguard.settings.methods import SECTIONS


def reconstruction_distances(settings: DetectorSettings) -> list[str]:
    """All distances between images and reconstructions, each once."""
    sections = [getattr(settings, name) for name in SECTIONS if name in settings.methods]
    of_methods = [name for section in sections for name in section.distance_names]
    return list(dict.fromkeys([*settings.distances, *settings.unguided, *of_methods]))


def all_distances(settings: DetectorSettings) -> list[str]:
    """All distances that are computed, those of early stop included, each once."""
    names = [*reconstruction_distances(settings), *settings.early_stop.thresholds]
    return list(dict.fromkeys(names))
