"""ID images at the calibrated threshold, and classification that rejects images by a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.report.metrics import auroc
from diffguard.report.scored_run import ScoredRun

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def id_results(run: ScoredRun, id_set: str) -> dict[str, Any]:
    """The section `id` of `results.json`.

    Args:
        run: The scored run.
        id_set: Name of its ID set.

    Returns:
        `dataset`, `n`, `accuracy` of the classifier, `accept` (the share that the thresholds were
        calibrated for; None without thresholds), and `scores` with one entry per score: its
        `threshold`; the share `accepted` of all ID images, of those that the classifier gets right
        (`accepted_right`) and of those that it gets wrong (`accepted_wrong`); the
        `accuracy_accepted` on accepted images; `aurc`, see `aurc`; and `auroc_errors`, the AUROC of
        wrongly against rightly classified images. Values that do not exist are None.
    """
    table = run.table
    rows = table.rows(id_set)
    right = table.prediction[rows] == table.label[rows]
    thresholds = run.thresholds
    return {
        "dataset": id_set,
        "n": len(rows),
        "accuracy": float(right.mean()),
        "accept": None if thresholds is None else thresholds.accept,
        "scores": [
            {
                "score": name,
                **_at_threshold(scores[rows], right, run.threshold_of(name)),
                "aurc": aurc(scores[rows], right),
                "auroc_errors": _auroc_errors(scores[rows], right),
            }
            for name, scores in table.scores.items()
        ],
    }


def aurc(scores: Floats, right: Flags) -> float:
    """Area under the risk-coverage curve (Geifman et al., 2019), in [0, 1], lower is better.

    Images are accepted from the lowest score up. The area is the error rate on the accepted images,
    averaged over their numbers 1, 2, …, n. Images of equal score are accepted in random order.

    Args:
        scores: `(n,)` of ID images, higher = more OOD.
        right: `(n,)` bool, whether the classifier is right.

    Example:
        >>> aurc(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, True, False]))
        0.0625
    """
    _, place = np.unique(scores, return_inverse=True)
    accepted = np.bincount(place).cumsum()
    errors = np.bincount(place, ~right).cumsum()
    numbers = np.arange(1, len(scores) + 1)
    # Among images of equal score, the expected number of errors grows linearly.
    risk = np.interp(numbers, np.append(0, accepted), np.append(0, errors)) / numbers
    return float(risk.mean())


def share(flags: Flags) -> float | None:
    """The share of true values; None if there is no value."""
    return float(flags.mean()) if len(flags) else None


def _at_threshold(scores: Floats, right: Flags, threshold: float | None) -> dict[str, float | None]:
    if threshold is None:
        names = ("threshold", "accepted", "accepted_right", "accepted_wrong", "accuracy_accepted")
        return dict.fromkeys(names)
    accepted = scores <= threshold
    return {
        "threshold": threshold,
        "accepted": share(accepted),
        "accepted_right": share(accepted[right]),
        "accepted_wrong": share(accepted[~right]),
        "accuracy_accepted": share(right[accepted]),
    }


def _auroc_errors(scores: Floats, right: Flags) -> float | None:
    if right.all() or not right.any():
        return None
    return auroc(torch.from_numpy(scores[right]), torch.from_numpy(scores[~right]))
