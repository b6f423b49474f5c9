"""The one-standard-error rule, by which settings are chosen on validation sets.

Of the candidates whose AUROC is at most one standard error below the highest, the rule takes the
simplest or cheapest one (Breiman et al., 1984). The standard error is that of the difference to the
highest, from a paired bootstrap of the validation images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from diffguard.report.bootstrap import Bootstrap
from diffguard.report.metrics import auroc

# Set -> `(n,)` of one score; the first set is the ID set.
Column = Mapping[str, np.ndarray]
# What should be low, the most important first.
Cost = tuple[float, ...]

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Candidate(Generic[Choice]):
    """A choice among several.

    Attributes:
        choice: What could be chosen, such as the names of scores.
        cost: What should be low, such as the number of these scores; compared in order.
        auroc: AUROC against each OOD validation set, averaged, in [0, 1].
        error: Standard error of its difference to the highest AUROC of the ranking.
    """

    choice: Choice
    cost: Cost
    auroc: float
    error: float


@dataclass(frozen=True)
class Ranking(Generic[Choice]):
    """Candidates, the highest AUROC first."""

    candidates: list[Candidate[Choice]]

    @property
    def best(self) -> Candidate[Choice]:
        """The candidate with the lowest cost among those within one standard error."""
        highest = self.candidates[0].auroc
        level = [c for c in self.candidates if highest - c.auroc <= c.error]
        return min(level, key=lambda candidate: (candidate.cost, -candidate.auroc))


def rank(options: Sequence[tuple[Choice, Cost, Column]]) -> Ranking[Choice]:
    """Rank choices by AUROC, with the standard errors of the differences to the highest.

    Args:
        options: Each choice with its cost and its score of the images of all sets.
    """
    choices, costs, columns = zip(*options, strict=True)
    id_set, *ood_sets = columns[0]
    largest = max(len(columns[0][name]) for name in ood_sets)
    bootstrap = Bootstrap([column[id_set] for column in columns], largest)
    sets = {name: [column[name] for column in columns] for name in ood_sets}
    draws = np.mean([bootstrap.draws(sets[name], name)["auroc"] for name in ood_sets], axis=0)
    aurocs = [column_auroc(column) for column in columns]
    errors = (draws - draws[:, [int(np.argmax(aurocs))]]).std(axis=0, ddof=1)
    candidates = [
        Candidate(choice, cost, value, float(error))
        for choice, cost, value, error in zip(choices, costs, aurocs, errors, strict=True)
    ]
    return Ranking(sorted(candidates, key=lambda candidate: -candidate.auroc))


def column_auroc(column: Column) -> float:
    """AUROC of a score against each OOD validation set, averaged, in [0, 1]."""
    id_scores, *ood = [torch.from_numpy(values) for values in column.values()]
    return float(np.mean([float(auroc(id_scores, values)) for values in ood]))
