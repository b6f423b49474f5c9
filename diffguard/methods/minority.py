"""The minority score (Um et al., ICLR 2024, arXiv:2301.12334): the error of one-step denoising.

An image is noised and denoised in one step, to the model's clean estimate without a label. The
model restores common images better than rare ones. The score is the distance between the image and
the estimate, averaged over draws of the noise.

It takes `repeats` network passes, with DDIM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import NoisedImage, Program, Synthesis
from diffguard.methods.method import Method
from diffguard.methods.picture_distances import picture_distances
from diffguard.settings.values import steps_at


class Minority(Method):
    """The mean distance to the clean estimates of noised images; see `Method`."""

    name = "minority"

    def program(self) -> Program:
        """One step from each noised image to its clean estimate."""
        settings = self.models.settings.minority
        step = steps_at(settings.depth, len(self.recipe.plan)) - 1
        return Program(
            pictures=tuple(
                Synthesis(NoisedImage(step, repeat, self.models.seed), last=step, ends_clean=True)
                for repeat in range(settings.repeats)
            )
        )

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,
    ) -> dict[str, np.ndarray]:
        """`minority`; see `Method`."""
        models, phases = self.models, self.program().pictures
        distance = models.distance(models.settings.minority.distance)
        distances = picture_distances(models.classifier, [distance], phases, outcomes, batch_size)
        return {self.name: distances.mean((1, 2)).numpy()}
