r"""The norm of the guidance: how far the label bends the guided synthesis.

The score is the mean of $\|\epsilon_y - \epsilon_\varnothing\|_2$ over the steps of DiffGuard's
guided synthesis, whose passes it watches. It costs no network pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.observer import Observer, PassSight
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.methods.method import Method


@dataclass(frozen=True)
class NormSum(Observer):
    """Sums the norm of the guidance; keeps the sum, and the number of guided passes."""

    sees_passes = True
    values = 2

    def on_pass(self, sight: PassSight) -> None:
        """Add the norm; see `Observer`."""
        difference = (sight.noise_label - sight.noise_null).flatten(1)
        norm = torch.linalg.vector_norm(difference, dim=1, dtype=torch.float64)
        sight.values[:, 0] += torch.where(sight.has_both, norm, 0.0)
        sight.values[:, 1] += sight.has_both


class GuidanceNorm(Method):
    """The mean norm of the guidance; see `Method`. An image that is not guided scores 0."""

    name = "guidance_norm"

    def program(self) -> Program:
        """DiffGuard's guided synthesis, watched."""
        return Program(watched=((self.recipe.synthesize(self.recipe.guidance), NormSum()),))

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """`guidance_norm`; see `Method`."""
        ((phase, observer),) = self.program().watched
        sums = torch.stack([outcome.values[phase, observer] for outcome in outcomes]).cpu()
        return {self.name: (sums[:, 0] / sums[:, 1].clamp(min=1)).numpy()}
