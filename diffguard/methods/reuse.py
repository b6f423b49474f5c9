"""Which fits of methods a change of settings leaves valid."""

from __future__ import annotations

from torch import Tensor

from diffguard.methods.registry import Fits
from diffguard.scores.baseline_table import PARAMETERS
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.methods import FITTED, SECTIONS
from diffguard.settings.plain import to_dict
from diffguard.settings.roles import ACCELERATING, COMBINING, DECIDING

# Settings that no fit reads, and sections that only the fit of their own method reads.
_UNREAD = {*DECIDING, *COMBINING, *ACCELERATING, *PARAMETERS, *SECTIONS, "reference_images"}


def reusable_fits(
    fits: Fits, settings: DetectorSettings, changed: DetectorSettings
) -> dict[str, dict[str, Tensor]]:
    """The fits on ID training images that a calibration with changed settings can use.

    A mean depth of early stop is met anew by each calibration, so no fit is reused then.

    Args:
        fits: Method or baseline -> what was fitted with `settings`.
        settings: The settings of the fits.
        changed: The settings of the calibration.
    """
    old, new = to_dict(settings), to_dict(changed)
    reads_changed = any(old[key] != new[key] for key in new if key not in _UNREAD)
    if reads_changed or changed.early_stop.mean_depth is not None:
        return {}
    return {name: dict(fits[name]) for name in FITTED if name in fits and old[name] == new[name]}
