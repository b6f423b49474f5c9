"""The methods by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from diffguard.methods.ddpm_ood import DdpmOod
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.diffnb import DiffNb
from diffguard.methods.diffpath import DiffPath
from diffguard.methods.guidance_norm import GuidanceNorm
from diffguard.methods.lmd import Lmd
from diffguard.methods.method import Method
from diffguard.methods.minority import Minority
from diffguard.methods.models import Models
from diffguard.methods.msma import Msma
from diffguard.methods.recipes import recipe_of
from diffguard.scores.fusion_rule import UNGUIDED
from diffguard.settings.detector import score_names

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (DiffGuard, DiffPath, GuidanceNorm, DiffNb, DdpmOod, Lmd, Minority, Msma)
}

# Method or baseline -> what was fitted on ID training or validation images.
Fits = Mapping[str, Mapping[str, Tensor]]


def build_methods(
    models: Models, fits: Fits, *, unguided: bool = False, names: Collection[str] | None = None
) -> list[Method]:
    """The methods of the settings, in their order.

    Args:
        models: The networks and settings.
        fits: What was fitted, at least for each method that needs it.
        unguided: Reconstruct without guidance too, even if no distance needs it.
        names: The plain scores that are computed, at least one of a method; None computes all.
    """
    settings = models.settings
    if names is None:
        names = score_names(settings, derived=False)
    recipe = recipe_of(models, unguided=unguided or any(n.startswith(UNGUIDED) for n in names))
    return [
        METHODS[method](models, recipe, fits.get(method), names)
        for method in settings.methods
        if any(name.split("/")[0] == method for name in names)
    ]
