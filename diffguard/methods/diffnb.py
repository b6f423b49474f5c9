"""DiffNB (Liu et al., arXiv:2211.11255): how the classifier sees an image's diffusion neighbors.

An image is noised to a medium level and denoised toward the label that the classifier predicts. The
results are its neighbors. The classifier's view of an ID image hardly changes; that of an OOD image
does. The score is the distance between the image and a neighbor, by default of the logits, averaged
over draws of the noise.

It takes `repeats · steps · 2` network passes, with `steps` the steps of `depth`; half as many at
scale 1, where the pass without the label is not needed. These are the counts for DDIM.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import ClassifierFree, NoisedImage, Program, Synthesis
from diffguard.engine.recipe import Recipe
from diffguard.methods.method import Method, Networks
from diffguard.methods.picture_distances import picture_distances
from diffguard.settings.values import steps_at


class DiffNb(Method):
    """The mean distance to diffusion neighbors; see `Method`."""

    name = "diffnb"

    def __init__(
        self,
        models: Networks,
        recipe: Recipe,
        state: Mapping[str, Tensor] | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        super().__init__(models, recipe, state, names)
        layer = models.distance(models.settings.diffnb.distance).layer
        self.layers = () if layer is None else (layer,)

    def program(self) -> Program:
        """A guided synthesis from each noised image."""
        settings = self.models.settings.diffnb
        start = steps_at(settings.depth, len(self.recipe.plan)) - 1
        guidance = ClassifierFree(settings.scale, masked=False)
        return Program(
            pictures=tuple(
                Synthesis(NoisedImage(start, repeat, self.models.seed), guidance)
                for repeat in range(settings.repeats)
            )
        )

    def scores(
        self, outcomes: Sequence[Outcome], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """`diffnb`; see `Method`."""
        models, phases = self.models, self.program().pictures
        distance = models.distance(models.settings.diffnb.distance)
        distances = picture_distances(
            models.classifier, [distance], phases, outcomes, batch_size, output
        )
        return {self.name: distances.mean((1, 2)).numpy()}
