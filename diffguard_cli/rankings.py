"""Ranks distances and sets of baselines by AUROC on validation sets; the fewest parts win ties."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from diffguard.scores.calibration import Calibration
from diffguard.scores.distance_names import DISTANCES
from diffguard.scores.fusion_rule import DIFFGUARD, FusionRule
from diffguard.scores.negative_log_p import NegativeLogP
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.one_standard_error import Column, Cost, Ranking, column_auroc, rank

# Set -> score -> `(n,)`; the first set is the ID set.
Table = Mapping[str, dict[str, np.ndarray]]


def rank_distances(table: Table, settings: DetectorSettings) -> Ranking[list[str]]:
    """Rank the choices of distances by `diffguard`."""
    candidates = distance_choices(settings)
    return rank([(names, (len(names),), diffguard(table, settings, names)) for names in candidates])


def distance_choices(settings: DetectorSettings) -> list[list[str]]:
    """Single distances and pairs of kinds; a tandem has pairs only."""
    singles = [] if settings.combine == "tandem" else [[name] for name in distance_names(settings)]
    return [*singles, *pairs_of_kinds(settings)]


def rank_fused(table: Table, settings: DetectorSettings) -> Ranking[list[str]]:
    """Rank sets of baselines by their `fusion` with `diffguard`, for the settings' distances."""
    method_scores = normalized(diffguard(table, settings, settings.distance))
    fusions = [
        (names, cost, {name: (method_scores[name] + values) / 2 for name, values in column.items()})
        for names, cost, column in _means_of_baselines(table, settings.baselines)
    ]
    return rank(fusions)


def rank_comparators(table: Table, settings: DetectorSettings) -> Ranking[list[str]]:
    """Rank sets of baselines by `fusion_baselines`, without `diffguard`."""
    return rank(list(_means_of_baselines(table, settings.baselines)))


def mean_auroc(table: Table, score: str) -> float:
    """AUROC of a score against each OOD validation set, averaged, in [0, 1]."""
    return column_auroc(column_of(table, score))


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
) -> Iterator[tuple[list[str], Cost, Column]]:
    """All subsets of at least one baseline, their sizes and mean negative log p-values."""
    parts = {name: normalized(column_of(table, name)) for name in baselines}
    for size in range(1, len(baselines) + 1):
        for names in itertools.combinations(baselines, size):
            means = {s: np.mean([parts[name][s] for name in names], axis=0) for s in table}
            yield list(names), (size,), means
