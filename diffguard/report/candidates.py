"""Choice, while images are scored, of those whose pictures the gallery may show at the end."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from diffguard.report.cases import spaced
from diffguard.report.gallery import MOST_IMAGES
from diffguard.score_table.rows import ScoreRow

Severity = Callable[[ScoreRow], float | None]
"""Row -> how urgently its image is shown, higher = more; None if only a sample of them is shown."""


class Candidates:
    """Images that the gallery may show: a sample, and the images of the highest severity so far.

    It admits more images than the gallery shows, because the highest severities are known only at
    the end; with M images in random order about `most * (1 + log(M / most))`.

    Args:
        sample: (dataset, index) of images that are admitted in any case.
        severity: How urgently an image is shown.
        most: Images of a severity that the gallery shows.
    """

    def __init__(
        self, sample: Collection[tuple[str, int]], severity: Severity, most: int = MOST_IMAGES
    ) -> None:
        self._sample, self._severity, self._most = frozenset(sample), severity, most
        self._highest: list[float] = []  # a heap, the lowest first

    def admits(self, row: ScoreRow) -> bool:
        """Whether the gallery may show the image of a finished row."""
        severity = self._severity(row)
        is_high = severity is not None and self._is_among_highest(severity)
        return is_high or (row.dataset, row.index) in self._sample

    def _is_among_highest(self, severity: float) -> bool:
        if len(self._highest) < self._most:
            heapq.heappush(self._highest, severity)
            return True
        return heapq.heappushpop(self._highest, severity) < severity


def even_sample(
    pairs: Sequence[tuple[str, int]], most: int = MOST_IMAGES
) -> frozenset[tuple[str, int]]:
    """At most `most` (dataset, index) at even distances."""
    places = spaced(np.arange(len(pairs)), most)
    return frozenset(pairs[place] for place in places.tolist())


def mistakes_first(groups: Mapping[str, str], score: str, threshold: float) -> Severity:
    """Severity of an image of known group: the distance of a mistake from the threshold.

    Args:
        groups: Set name -> `id`, `near` or `far`.
        score: The score that judges images, higher = more OOD.
        threshold: The score above which an image is OOD.
    """

    def severity(row: ScoreRow) -> float | None:
        distance = row.scores[score] - threshold
        is_mistake = (distance > 0) == (groups[row.dataset] == "id")
        return abs(distance) if is_mistake else None

    return severity


def suspicious_first(score: str) -> Severity:
    """Severity of an image of unknown group: its score."""
    return lambda row: row.scores[score]
