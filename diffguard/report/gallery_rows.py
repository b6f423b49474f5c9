"""Choice of the images of an evaluation that the gallery of its report shows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffguard.report.cases import spaced
from diffguard.report.gallery import MOST_IMAGES, Gallery


def gallery_rows(
    gallery: Gallery,
    groups: Mapping[str, str],
    threshold: float,
    typical: NDArray[np.intp],
    sample: NDArray[np.intp],
    most: int = MOST_IMAGES,
) -> NDArray[np.intp]:
    """The images that are shown, the hardest mistakes first.

    If there are too many images, the hardest mistakes are kept, and correct verdicts of the sample
    at even ranks of the score within each set.

    Args:
        gallery: The images with their verdicts.
        groups: Set name -> `id`, `near` or `far`; images of other sets are not shown.
        threshold: The score above which an image is OOD.
        typical: `(n,)` rows that are kept in any case.
        sample: `(m,)` rows whose images may be shown although their verdict is correct.
        most: Number of images to show.

    Returns:
        `(N,)` rows of the table: the false alarms and the missed OOD images, by descending distance
        from the threshold, then the other images, by descending score.
    """
    table, scores = gallery.table, gallery.table.scores[gallery.judge.decision.score]
    group = np.array([groups.get(name, "") for name in table.dataset_names])[table.dataset]
    rows = gallery.rows
    is_mistake = gallery.judgment.is_ood == (group[rows] == "id")
    mistakes, correct = (rows[part & (group[rows] != "")] for part in (is_mistake, ~is_mistake))
    mistakes = mistakes[np.argsort(-np.abs(scores[mistakes] - threshold), kind="stable")]
    correct = correct[np.argsort(-scores[correct], kind="stable")]
    first = list(dict.fromkeys([*typical.tolist(), *mistakes.tolist()]))[:most]
    rest = correct[np.isin(correct, sample) & ~np.isin(correct, first)]
    rest = rest[np.argsort(table.dataset[rest], kind="stable")]
    kept = np.concatenate([np.array(first, dtype=np.intp), spaced(rest, most - len(first))])
    return np.concatenate([part[np.isin(part, kept)] for part in (mistakes, correct)])
