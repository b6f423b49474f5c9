"""What a checkpoint holds of the methods that are fitted on ID training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from diffguard.scores.mixture import is_mixture
from diffguard.scores.z_scores import are_z_scores
from diffguard.settings.detector import DetectorSettings

Fits = Mapping[str, Mapping[str, Tensor]]

# Method -> whether tensors are what it is fitted to, with the shape that its settings give.
_KINDS: dict[str, Callable[[Mapping[str, Tensor], tuple[int, ...]], bool]] = {
    "diffpath": is_mixture,
    "ddpm_ood": are_z_scores,
    "msma": is_mixture,
}


def unfit_methods(fits: Fits, settings: DetectorSettings) -> list[str]:
    """The methods in `fits` whose fit is not one that calibration makes with the settings.

    Args:
        fits: Method -> what it was fitted to.
        settings: The settings of a detector. Methods that it does not use are not checked.
    """
    return [
        name
        for name, state in fits.items()
        if name not in _KINDS
        or (name in settings.methods and not _KINDS[name](state, getattr(settings, name).fit_shape))
    ]
