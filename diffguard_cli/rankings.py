"""Ranks distances and sets of baselines by AUROC on validation sets, and chooses among them.

The choice follows the one-standard-error rule (Breiman et al., 1984): of the candidates whose AUROC
is at most one standard error below the highest, it takes the one with the fewest parts. The
standard error is that of the difference to the highest, from a paired bootstrap of the validation
images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffguard.report.bootstrap import Bootstrap
from diffguard.report.metrics import auroc
from diffguard.scores.calibration import Calibration
from diffguard.scores.distance_names import DISTANCES
from diffguard.scores.fusion_rule import DIFFGUARD, FusionRule
from diffguard.scores.negative_log_p import NegativeLogP
from diffguard.settings.detector import DetectorSettings

# Set -> score -> `(n,)`; the first set is the ID set.
Table = Mapping[str, dict[str, np.ndarray]]
# Set -> `(n,)` of one score.
Column = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """Scores that could be combined.

    Attributes:
        names: The scores.
        auroc: AUROC of their combination against each OOD validation set, averaged, in [0, 1].
        error: Standard error of its difference to the highest AUROC of the ranking.
    """

    names: list[str]
    auroc: float
    error: float


@dataclass(frozen=True)
class Ranking:
    """Candidates, the highest AUROC first."""

    candidates: list[Candidate]

    @property
    def choice(self) -> Candidate:
        """The candidate that the one-standard-error rule chooses."""
        highest = self.candidates[0].auroc
        level = [c for c in self.candidates if highest - c.auroc <= c.error]
        return min(level, key=lambda candidate: (len(candidate.names), -candidate.auroc))


def rank_distances(table: Table, settings: DetectorSettings) -> Ranking:
    """Rank single distances and pairs of kinds by `diffguard`; a tandem has pairs only."""
    pairs = list(pairs_of_kinds(settings))
    singles = [] if settings.combine == "tandem" else [[name] for name in distance_names(settings)]
    candidates = [*singles, *pairs]
    return _ranked([(names, diffguard(table, settings, names)) for names in candidates])


def rank_fused(table: Table, settings: DetectorSettings) -> Ranking:
    """Rank sets of baselines by their `fusion` with `diffguard`, for the settings' distances."""
    method_scores = normalized(diffguard(table, settings, settings.distance))
    fusions = [
        (names, {name: (method_scores[name] + values) / 2 for name, values in column.items()})
        for names, column in _means_of_baselines(table, settings.baselines)
    ]
    return _ranked(fusions)


def rank_comparators(table: Table, settings: DetectorSettings) -> Ranking:
    """Rank sets of baselines by `fusion_baselines`, without `diffguard`."""
    return _ranked(list(_means_of_baselines(table, settings.baselines)))


def mean_auroc(table: Table, score: str) -> float:
    """AUROC of a score against each OOD validation set, averaged, in [0, 1]."""
    return column_auroc(column_of(table, score))


def column_auroc(column: Column) -> float:
    """AUROC of one score, as `mean_auroc`."""
    id_scores, *ood = [torch.from_numpy(values) for values in column.values()]
    return float(np.mean([float(auroc(id_scores, values)) for values in ood]))


def column_of(table: Table, score: str) -> Column:
    """One score of all sets."""
    return {name: scores[score] for name, scores in table.items()}


def diffguard(table: Table, settings: DetectorSettings, distance: Sequence[str]) -> Column:
    """The `diffguard` score of all sets for a choice of distances."""
    names = [f"{DIFFGUARD}/{name}" for name in distance]
    id_scores = {name: torch.from_numpy(next(iter(table.values()))[name]) for name in names}
    rule = FusionRule(distance, band=settings.fusion_rule().band if len(distance) > 1 else None)
    calibration = Calibration.fit(id_scores, rule)
    return {name: calibration.derive(scores)[DIFFGUARD] for name, scores in table.items()}


def normalized(column: Column) -> Column:
    """Negative log p-values of a score on the ID validation images."""
    normalize = NegativeLogP(next(iter(column.values())))
    return {name: normalize(values) for name, values in column.items()}


def distance_names(settings: DetectorSettings) -> list[str]:
    """All distances that can be combined to `diffguard`."""
    return [*settings.distances, *(f"unguided/{name}" for name in settings.unguided)]


def pairs_of_kinds(settings: DetectorSettings) -> Iterator[list[str]]:
    """All pairs of a distance of classifier outputs and a distance of images."""
    names = distance_names(settings)
    kinds = [DISTANCES[name.rpartition("/")[2].partition("@")[0]].needs for name in names]
    pixels = [name for name, kind in zip(names, kinds, strict=True) if kind == "images"]
    outputs = [name for name, kind in zip(names, kinds, strict=True) if kind != "images"]
    yield from ([output, pixel] for output in outputs for pixel in pixels)


def _means_of_baselines(
    table: Table, baselines: Sequence[str]
) -> Iterator[tuple[list[str], Column]]:
    """All subsets of at least one baseline, with their mean negative log p-values."""
    parts = {name: normalized(column_of(table, name)) for name in baselines}
    for size in range(1, len(baselines) + 1):
        for names in itertools.combinations(baselines, size):
            means = {s: np.mean([parts[name][s] for name in names], axis=0) for s in table}
            yield list(names), means


def _ranked(columns: Sequence[tuple[list[str], Column]]) -> Ranking:
    """Rank scores by their AUROC, with the standard errors of its differences to the highest."""
    id_set, *ood_sets = columns[0][1]
    largest = max(len(columns[0][1][name]) for name in ood_sets)
    bootstrap = Bootstrap([column[id_set] for _, column in columns], largest)
    sets = {name: [column[name] for _, column in columns] for name in ood_sets}
    draws = np.mean([bootstrap.draws(sets[name], name)["auroc"] for name in ood_sets], axis=0)
    aurocs = [column_auroc(column) for _, column in columns]
    errors = (draws - draws[:, [int(np.argmax(aurocs))]]).std(axis=0, ddof=1)
    candidates = [
        Candidate(names, value, float(error))
        for (names, _), value, error in zip(columns, aurocs, errors, strict=True)
    ]
    return Ranking(sorted(candidates, key=lambda candidate: -candidate.auroc))
