"""DiffGuard: reconstruct an image, guided by its label, and compare it with the result.

An image whose label is right comes back almost unchanged. One that the label does not describe is
pulled toward the label, and the distance between the two images is the score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Phase, Program
from diffguard.engine.recipe import Recipe
from diffguard.methods.comparison import Comparison
from diffguard.methods.method import Method, Networks
from diffguard.scores.distances import Distance
from diffguard.scores.fusion_rule import DIFFGUARD, UNGUIDED


class DiffGuard(Method):
    """Distances between images and their guided reconstructions; see `Method`."""

    name = "diffguard"

    def __init__(
        self,
        models: Networks,
        recipe: Recipe,
        state: Mapping[str, Tensor] | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        super().__init__(models, recipe, state, names)
        settings = models.settings
        self.comparison = Comparison(
            models.classifier,
            settings.comparison,
            self._distances(settings.distances, DIFFGUARD),
            self._distances(settings.unguided, UNGUIDED),
        )
        self.layers = self.comparison.layers

    def _distances(self, distances: Sequence[str], prefix: str) -> dict[str, Distance]:
        """The distances whose scores are computed."""
        names = [n for n in distances if self.names is None or f"{prefix}/{n}" in self.names]
        return {name: self.models.distance(name) for name in names}

    def program(self) -> Program:
        """An inversion, and one or two syntheses from its end; see `Recipe`."""
        return self.recipe.program()

    def phases(self, score: str) -> tuple[Phase, ...]:
        """The inversion and the syntheses that a score compares; see `Method`."""
        guidances = [self.recipe.guidance, *([None] if score.startswith(UNGUIDED) else [])]
        return Program(pictures=tuple(map(self.recipe.synthesize, guidances))).phases

    def scores(
        self, outcomes: Sequence[Outcome], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """The distances of the settings; see `Method`."""
        results = [self.recipe.reconstruction(outcome) for outcome in outcomes]
        return self.comparison(results, output, batch_size)
