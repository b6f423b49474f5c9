r"""MSMA (Mahmood et al., ICLR 2021): the norm of the predicted noise at several noise levels.

The image is scaled to K noise levels, without noise, and the network predicts the noise in each.
The norms $\|\epsilon_\theta(\sqrt{\bar\alpha_t} x_0, t)\|_2$ are K numbers. The score is their
negative log density under a Gaussian mixture that is fitted on ID training images. As in the
authors' code, no noise is added: its norm would vary more between draws than between images. It
takes K independent passes without a label; a solver with several passes in its first step takes
that many for each level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.observer import Observer, PassSight
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import NoisedImage, Program, Synthesis
from diffguard.methods.method import Method
from diffguard.scores.mixture import fit_mixture, negative_log_density


@dataclass(frozen=True)
class FirstNorm(Observer):
    """Keeps the norm of the noise in the first pass of a phase, and the number of passes."""

    sees_passes = True
    values = 2

    def on_pass(self, sight: PassSight) -> None:
        """Keep the norm; see `Observer`."""
        norm = torch.linalg.vector_norm(sight.noise.flatten(1), dim=1, dtype=torch.float64)
        sight.values[:, 0] += torch.where(sight.values[:, 1] == 0, norm, 0.0)
        sight.values[:, 1] += 1


class Msma(Method):
    """MSMA; see `Method`."""

    name = "msma"

    @property
    def images(self) -> int:
        """Most ID training images that the method is fitted on."""
        return self.models.settings.msma.images

    def program(self) -> Program:
        """One pass at each level, watched."""
        starts = [NoisedImage(step, noise="none") for step in self._steps()]
        phases = [Synthesis(start, last=start.step, ends_clean=True) for start in starts]
        return Program(watched=tuple((phase, FirstNorm()) for phase in phases))

    def fit(self, outcomes: Iterable[Outcome]) -> dict[str, Tensor]:
        """Fit the mixture; see `Method`."""
        return fit_mixture(self._norms(outcomes), self.models.settings.msma.components)

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """`msma`; see `Method`."""
        return {self.name: negative_log_density(self._norms(outcomes), self.state).numpy()}

    def _steps(self) -> list[int]:
        """The steps whose levels are used: evenly spaced, up to the highest level."""
        levels, steps = self.models.settings.msma.levels, len(self.recipe.plan)
        return [(number + 1) * steps // levels - 1 for number in range(levels)]

    def _norms(self, outcomes: Iterable[Outcome]) -> Tensor:
        """`(N, K)` the norms of images."""
        watched = self.program().watched
        norms = [torch.stack([o.values[pair][0] for pair in watched]) for o in outcomes]
        return torch.stack(norms).cpu()
