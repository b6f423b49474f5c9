"""Ranks pairs of distances and sets of baselines by AUROC on validation sets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from diffguard.report.metrics import auroc
from diffguard.scores.calibration import Calibration
from diffguard.scores.distance_names import DISTANCES
from diffguard.settings.detector import DetectorSettings

# Set -> score -> `(n,)`; the first set is the ID set.
Table = Mapping[str, dict[str, np.ndarray]]
# Mean AUROC and the names of the scores, best first.
Ranking = list[tuple[float, list[str]]]


def mean_auroc(table: Table, score: str) -> float:
    """AUROC of a score against each OOD validation set, averaged, in [0, 1]."""
    id_scores, *ood = [torch.from_numpy(scores[score]) for scores in table.values()]
    return float(np.mean([float(auroc(id_scores, values)) for values in ood]))


def add_derived(table: Table, settings: DetectorSettings) -> None:
    """Add the scores derived with a calibration on the ID validation images."""
    id_scores = next(iter(table.values()))
    scores = {name: torch.from_numpy(values) for name, values in id_scores.items()}
    calibration = Calibration.fit(scores, settings.fusion_rule())
    for values in table.values():
        values |= calibration.derive(values)


def pairs_of_kinds(settings: DetectorSettings) -> Iterator[list[str]]:
    """All pairs of a distance of classifier outputs and a distance of images."""
    names = [*settings.distances, *(f"unguided/{name}" for name in settings.unguided)]
    kinds = [DISTANCES[name.rpartition("/")[2].partition("@")[0]].needs for name in names]
    pixels = [name for name, kind in zip(names, kinds, strict=True) if kind == "images"]
    outputs = [name for name, kind in zip(names, kinds, strict=True) if kind != "images"]
    yield from ([output, pixel] for output in outputs for pixel in pixels)


def subsets(names: Sequence[str]) -> Iterator[list[str]]:
    """All subsets of at least one name."""
    for size in range(1, len(names) + 1):
        yield from map(list, itertools.combinations(names, size))


def rank_subsets(table: Table, settings: DetectorSettings) -> tuple[Ranking, Ranking]:
    """Rank the pairs of distances by `diffguard`, then the baselines by `fusion`.

    Returns:
        The ranking of pairs of distances, and of subsets of baselines with the best pair.
    """
    pairs = []
    for names in pairs_of_kinds(settings):
        add_derived(table, replace(settings, distance=names))
        pairs.append((mean_auroc(table, "diffguard"), names))
    pairs.sort(reverse=True)
    fusions = []
    for names in subsets(settings.baselines):
        add_derived(table, replace(settings, distance=pairs[0][1], fused=names))
        fusions.append((mean_auroc(table, "fusion"), names))
    fusions.sort(reverse=True)
    return pairs, fusions
