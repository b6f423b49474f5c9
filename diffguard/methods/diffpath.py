r"""DiffPath-6D (Heng et al., NeurIPS 2024, arXiv:2405.11881): statistics of the inversion's path.

Of the noise $\epsilon$ along the inversion and its change $\partial_t\epsilon$, with the time from
0 to 1, the powers 1, 2 and 3 are summed over the pixels and averaged over the steps that the image
makes. Their signed roots are six numbers. The score is their negative log density under a Gaussian
mixture that is fitted on ID training images. Beside DiffGuard it costs no network pass, because it
watches the same inversion.
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
from diffguard.engine.program import Program
from diffguard.methods.method import Method
from diffguard.scores.mixture import fit_mixture, negative_log_density


@dataclass(frozen=True)
class PathSums(Observer):
    """Sums powers of the noise and of its change along an inversion.

    Keeps three sums of the noise, three of its change, and the number of passes.

    Attributes:
        steps: Steps of the whole schedule; each takes the time 1 / steps.
    """

    sees_passes = True
    values = 7
    memory = 1

    steps: int

    def on_pass(self, sight: PassSight) -> None:
        """Add the powers; see `Observer`."""
        noise, before = sight.noise, sight.memory[0]
        count = sight.values[:, 6]
        sight.values[:, :3] += _powers(noise)
        change = _powers((noise - before) * self.steps)
        sight.values[:, 3:6] += torch.where((count > 0).unsqueeze(1), change, 0.0)
        sight.values[:, 6] += 1
        sight.memory[0] = noise


def _powers(x: Tensor) -> Tensor:
    """`(B, 3)` float64 sums of x, x² and x³ over all but the first dimension."""
    x = x.flatten(1).double()
    return torch.stack([x.sum(1), x.square().sum(1), (x * x * x).sum(1)], dim=1)


def path_statistics(sums: Tensor) -> Tensor:
    """The six statistics `(N, 6)` of the sums `(N, 7)` of `PathSums`."""
    counts = sums[:, 6:]
    means = torch.cat([sums[:, :3] / counts, sums[:, 3:6] / (counts - 1).clamp(min=1)], dim=1)
    roots = means.new_tensor([1.0, 1 / 2, 1 / 3, 1.0, 1 / 2, 1 / 3])
    return means.sign() * means.abs() ** roots


class DiffPath(Method):
    """DiffPath-6D; see `Method`."""

    name = "diffpath"

    @property
    def images(self) -> int:
        """Most ID training images that the method is fitted on."""
        return self.models.settings.diffpath.images

    def program(self) -> Program:
        """The inversion, watched."""
        return Program(watched=((self.recipe.invert, PathSums(len(self.recipe.plan))),))

    def fit(self, outcomes: Iterable[Outcome]) -> dict[str, Tensor]:
        """Fit the mixture; see `Method`."""
        return fit_mixture(self._statistics(outcomes), self.models.settings.diffpath.components)

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """`diffpath`; see `Method`."""
        statistics = self._statistics(outcomes)
        return {self.name: negative_log_density(statistics, self.state).numpy()}

    def _statistics(self, outcomes: Iterable[Outcome]) -> Tensor:
        ((phase, observer),) = self.program().watched
        sums = torch.stack([outcome.values[phase, observer] for outcome in outcomes]).cpu()
        return path_statistics(sums)
