r"""DDPM-OOD (Graham et al., CVPR Workshops 2023): reconstructions from many noise levels.

An image is noised to several levels and reconstructed from each without a label. Each distance at
each level is normalized to $z = (d - \mu) / \sigma$, with the mean and standard deviation of ID
training images. The score is the mean of all z.

It takes as many network passes as the levels have steps: `levels · (levels + 1) / 2 · gap` for
levels that are `gap` steps apart, with DDIM.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import ROW_MULTIPLE
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import NoisedImage, Program, Synthesis
from diffguard.methods.method import Method
from diffguard.methods.picture_distances import picture_distances
from diffguard.scores.z_scores import fit_z_scores, z_scores
from diffguard.settings.values import steps_at


class DdpmOod(Method):
    """The mean z-score of reconstruction errors; see `Method`."""

    name = "ddpm_ood"

    @property
    def images(self) -> int:
        """Most ID training images that the method is fitted on."""
        return self.models.settings.ddpm_ood.images

    @property
    def steps(self) -> list[int]:
        """The number of synthesis steps from each level, rising."""
        settings = self.models.settings.ddpm_ood
        most = steps_at(settings.depth, len(self.recipe.plan))
        return [most * level // settings.levels for level in range(1, settings.levels + 1)]

    def program(self) -> Program:
        """An unguided synthesis from each level."""
        starts = [NoisedImage(steps - 1, seed=self.models.seed) for steps in self.steps]
        return Program(pictures=tuple(Synthesis(start) for start in starts))

    def fit(self, outcomes: Iterable[Outcome]) -> dict[str, Tensor]:
        """Measure the mean and standard deviation of all distances; see `Method`."""
        distances, outcomes = [], iter(outcomes)
        while batch := list(itertools.islice(outcomes, ROW_MULTIPLE)):
            distances.append(self._distances(batch, ROW_MULTIPLE))
        return fit_z_scores(torch.cat(distances))

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,
    ) -> dict[str, np.ndarray]:
        """`ddpm_ood`; see `Method`."""
        z = z_scores(self._distances(outcomes, batch_size), self.state)
        return {self.name: z.mean((1, 2)).numpy()}

    def _distances(self, outcomes: Sequence[Outcome], batch_size: int) -> Tensor:
        """`(N, levels, distances)`."""
        models, phases = self.models, self.program().pictures
        distances = [models.distance(name) for name in models.settings.ddpm_ood.distances]
        return picture_distances(models.classifier, distances, phases, outcomes, batch_size)
