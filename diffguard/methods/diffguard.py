"""DiffGuard: reconstruct an image, guided by its label, and compare it with the result.

An image whose label is right comes back almost unchanged. One that the label does not describe is
pulled toward the label, and the distance between the two images is the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.engine.recipe import Recipe
from diffguard.methods.comparison import Comparison
from diffguard.methods.method import Method, Networks


class DiffGuard(Method):
    """Distances between images and their guided reconstructions; see `Method`."""

    name = "diffguard"

    def __init__(
        self, models: Networks, recipe: Recipe, state: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(models, recipe, state)
        settings = models.settings
        self.comparison = Comparison(
            models.classifier,
            settings.comparison,
            {name: models.distance(name) for name in settings.distances},
            {name: models.distance(name) for name in settings.unguided},
        )
        self.layers = self.comparison.layers

    def program(self) -> Program:
        """An inversion, and one or two syntheses from its end; see `Recipe`."""
        return self.recipe.program()

    def scores(
        self, outcomes: Sequence[Outcome], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """The distances of the settings; see `Method`."""
        results = [self.recipe.reconstruction(outcome) for outcome in outcomes]
        return self.comparison(results, output, batch_size)
