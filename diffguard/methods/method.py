"""What a detection method is: a program for the engine, and the scores made of its outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Phase, Program
from diffguard.engine.recipe import Recipe
from diffguard.scores.distances import Distance
from diffguard.settings.detector import DetectorSettings, score_names


class Networks(Protocol):
    """What a method uses of a detector's `Models`.

    Attributes:
        classifier: The protected classifier.
        settings: The settings that define the scores.
        seed: Seed of the randomness that belongs to each image.
    """

    classifier: Classifier
    settings: DetectorSettings
    seed: int

    def distance(self, name: str) -> Distance:
        """A distance that the settings name."""
        ...


class Method(ABC):
    """A detection method on the diffusion model.

    The methods of a detector run in one engine. Phases that several of them ask for are made once.

    Args:
        models: The networks and settings of the detector.
        recipe: How DiffGuard reconstructs images; other methods may watch its phases.
        state: What `fit` returned; empty if the method is not fitted.

        names: The scores that are computed, perhaps among others; None computes all.

    Attributes:
        layers: Names of the classifier's layers that the scores read.
    """

    name: ClassVar[str]
    layers: Sequence[str] = ()

    def __init__(
        self,
        models: Networks,
        recipe: Recipe,
        state: Mapping[str, Tensor] | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        self.models, self.recipe, self.state = models, recipe, dict(state or {})
        self.names = names

    @property
    def images(self) -> int:
        """Most ID training images that the method is fitted on."""
        return 0

    @property
    def score_names(self) -> list[str]:
        """The scores that are computed."""
        names = score_names(self.models.settings, derived=False)
        mine = [name for name in names if name.split("/")[0] == self.name]
        return mine if self.names is None else [name for name in mine if name in self.names]

    @abstractmethod
    def program(self) -> Program:
        """What the engine computes for each image."""

    def phases(self, score: str) -> tuple[Phase, ...]:  # noqa: ARG002
        """The phases that a score needs, one of `score_names`."""
        return self.program().phases

    @abstractmethod
    def scores(
        self, outcomes: Sequence[Outcome], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """The scores of images.

        Args:
            outcomes: At most `batch_size` of them.
            output: The classifier's output for the images.
            batch_size: Rows of every network call.

        Returns:
            Name -> `(N,)` float64, higher = more OOD.
        """

    def fit(self, outcomes: Iterable[Outcome]) -> dict[str, Tensor]:  # noqa: ARG002
        """Fit the method on ID training images; most methods need no fit.

        Args:
            outcomes: The outcomes of its program, at least one; can be read once.

        Returns:
            Tensors for `state`, which a checkpoint stores.

        Raises:
            UserError: If the images do not suffice.
        """
        return {}
