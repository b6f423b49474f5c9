"""What a checkpoint holds of the methods and baselines that are fitted on ID images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from diffguard.scores.baseline_table import BASELINES, VALIDATION_BASELINES
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


def unfit_names(fits: Fits, settings: DetectorSettings, classes: int) -> list[str]:
    """The methods and baselines in `fits` whose fit is not one that calibration makes.

    Args:
        fits: Method or baseline -> what it was fitted to.
        settings: The settings of a detector. Methods that it does not use are not checked.
        classes: Number of classes of its classifier.
    """
    return [name for name, state in fits.items() if not _is_fit(name, state, settings, classes)]


def _is_fit(
    name: str, state: Mapping[str, Tensor], settings: DetectorSettings, classes: int
) -> bool:
    if name in _KINDS:
        section = getattr(settings, name)
        return name not in settings.methods or _KINDS[name](state, section.fit_shape)
    if name not in VALIDATION_BASELINES:
        return False
    validation = BASELINES[name].validation
    return validation is not None and validation.accepts(state, classes)
