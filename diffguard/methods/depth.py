"""Fitting the early stop: thresholds for a mean depth of the inversion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffguard.diffusion.early_stop import calibrate_thresholds
from diffguard.engine.early_stop import Quality
from diffguard.engine.observer import Observer, Sight
from diffguard.engine.program import Program
from diffguard.engine.reproducible import reproducible
from diffguard.methods.models import Models
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.recipes import recipe_of


@dataclass(frozen=True)
class QualityTrace(Observer):
    """Keeps the qualities of the states after each step.

    Attributes:
        qualities: M qualities.
        values: S · M, for S steps; the numbers of a step are beside each other.
    """

    sees_steps = True
    sees_previews = True

    qualities: tuple[Quality, ...]
    values: int

    def on_step(self, sight: Sight) -> None:
        """Measure the qualities; see `Observer`."""
        states, images = sight.preview(sight.x), sight.image_previews()
        values = torch.stack([quality(states, images) for quality in self.qualities], 1)
        places = torch.arange(len(self.qualities), device=sight.index.device)
        index = sight.index.unsqueeze(1) * len(self.qualities) + places
        sight.values.scatter_(1, index, values.to(sight.values))


@reproducible()
def fit_early_stop(
    models: Models, validation: Iterable[Mapping[str, Any]], batch_size: int
) -> dict[str, float]:
    """Thresholds at which ID images stop at `early_stop.mean_depth` on average.

    Args:
        models: The networks and settings, on their device.
        validation: Batches of ID validation images.
        batch_size: Rows of every network call.

    Returns:
        Quality -> threshold; empty if the settings have no mean depth.
    """
    mean_depth = models.settings.early_stop.mean_depth
    if mean_depth is None:
        return {}
    recipe, qualities = recipe_of(models), models.qualities
    trace = QualityTrace(tuple(qualities.values()), recipe.max_steps * len(qualities))
    inversion = replace(recipe.invert, observers=())
    program = Program(watched=((inversion, trace),))
    outcomes = outcomes_of(models, recipe.sampler, program, validation, batch_size)
    # Qualities are measured in single precision.
    traces = torch.stack([outcome.values[inversion, trace] for outcome in outcomes]).float().cpu()
    by_step = traces.unflatten(1, (recipe.max_steps, len(qualities))).permute(1, 2, 0)
    mean_steps = mean_depth * len(recipe.plan)
    thresholds = calibrate_thresholds(by_step, mean_steps, recipe.max_steps)
    return dict(zip(qualities, thresholds, strict=True))
