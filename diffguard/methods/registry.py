"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping

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

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (DiffGuard, DiffPath, GuidanceNorm, DiffNb, DdpmOod, Lmd, Minority, Msma)
}

# Method -> what was fitted on ID training images.
Fits = Mapping[str, Mapping[str, Tensor]]


def build_methods(models: Models, fits: Fits, *, unguided: bool = False) -> list[Method]:
    """The methods of the settings, in their order.

    Args:
        models: The networks and settings.
        fits: What was fitted, at least for each method that needs it.
        unguided: Reconstruct without guidance too, even if no distance needs it.
    """
    recipe = recipe_of(models, unguided=unguided)
    names = models.settings.methods
    return [METHODS[name](models, recipe, fits.get(name)) for name in names]
