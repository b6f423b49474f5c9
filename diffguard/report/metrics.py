r"""Metrics of OOD detection, exact under ties.

With scores \(s\) (higher = more OOD) of ID and OOD images, an image is accepted as ID when
\(s \le t\) and flagged as OOD when \(s \ge t\). All metrics follow from the numbers of ID and OOD
images at each distinct score, which are counted in integers and divided in float64:

- `auroc`: P(s_ood > s_id) + ½ P(s_ood = s_id).
- `aupr_in`, `aupr_out`: trapezoid under the points (recall, precision) of all distinct thresholds
  and (0, 1), with ID or with OOD as the positive class. This is the area of OpenOOD and of the
  DiffGuard paper; average precision is a step-wise sum with other values.
- `fpr95_id_positive`: share of OOD accepted when at least 95% of ID is accepted (DiffGuard paper).
- `fpr95_ood_positive`: share of ID flagged when at least 95% of OOD is detected (OpenOOD v1.5).

torchmetrics' own curves are not used here: they divide integer counts in float32. The torchmetrics
`Metric` over these functions is `diffguard.report.torch_metric.OODMetrics`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffguard.errors import UserError

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive")
_LEVEL = 0.95

Counts = NDArray[np.int64]


def _level_counts(id_scores: Tensor, ood_scores: Tensor) -> tuple[Counts, Counts]:
    """Count ID and OOD images at each distinct score, from the lowest score to the highest."""
    ident, ood = (part.double().numpy(force=True) for part in (id_scores, ood_scores))
    scores = np.concatenate([ident, ood])
    broken = np.count_nonzero(~np.isfinite(scores))
    if broken:
        raise UserError(
            f"{broken} of {len(scores)} scores are NaN or infinite: a score must be finite, "
            "so find the image and the network that produced it"
        )
    for name, part in (("ID", ident), ("OOD", ood)):
        if not len(part):
            raise UserError(
                f"there is no {name} image among {len(scores)} scores: OOD metrics compare ID "
                "(label >= 0) with OOD (label -1), so give both"
            )
    levels, place = np.unique(scores, return_inverse=True)
    id_place, ood_place = np.split(place, [len(ident)])
    return (
        np.bincount(id_place, minlength=len(levels)),
        np.bincount(ood_place, minlength=len(levels)),
    )


def _auroc(id_counts: Counts, ood_counts: Counts) -> float:
    twice_below = 2 * id_counts.cumsum() - id_counts
    return float(twice_below @ ood_counts / (2 * id_counts.sum() * ood_counts.sum()))


def _aupr(positives: Counts, negatives: Counts) -> float:
    """Area under precision over recall; both counts start at the most positive score."""
    hits = positives.cumsum()
    precision = np.append(1.0, hits / (hits + negatives.cumsum()))
    recall = np.append(0.0, hits / hits[-1])
    return float(np.diff(recall) @ (precision[1:] + precision[:-1]) / 2)


def _fpr(positives: Counts, negatives: Counts) -> float:
    """False-positive rate at the first threshold that detects 95% of the positives."""
    hits, alarms = positives.cumsum(), negatives.cumsum()
    first = np.argmax(hits >= needed_hits(int(hits[-1])))
    return float(alarms[first] / alarms[-1])


def needed_hits(positives: int) -> int:
    """The least number of positives that is at least 95% of them."""
    return int(np.argmax(np.arange(positives + 1) / positives >= _LEVEL))


def compute_metrics(id_scores: Tensor, ood_scores: Tensor) -> dict[str, float]:
    """All five metrics of one score, as fractions in [0, 1].

    Args:
        id_scores: `(N,)` scores of ID images, higher = more OOD.
        ood_scores: `(M,)` scores of OOD images.

    Returns:
        `auroc`, `aupr_in`, `aupr_out` (higher is better), `fpr95_id_positive` and
        `fpr95_ood_positive` (lower is better).

    Raises:
        UserError: If a score is NaN or infinite, or one of the two classes is empty.

    Example:
        >>> metrics = compute_metrics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.9]))
        >>> round(metrics["auroc"], 3), metrics["fpr95_id_positive"]
        (0.917, 0.5)
    """
    low_id, low_ood = _level_counts(id_scores, ood_scores)
    high_id, high_ood = low_id[::-1], low_ood[::-1]
    return {
        "auroc": _auroc(low_id, low_ood),
        "aupr_in": _aupr(low_id, low_ood),
        "aupr_out": _aupr(high_ood, high_id),
        "fpr95_id_positive": _fpr(low_id, low_ood),
        "fpr95_ood_positive": _fpr(high_ood, high_id),
    }


def auroc(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Area under the ROC curve; arguments and errors as in `compute_metrics`.

    Example:
        >>> auroc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.9]))
        0.875
    """
    return _auroc(*_level_counts(id_scores, ood_scores))


def roc_curve(id_scores: Tensor, ood_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The ROC curve with OOD as the positive class, a point per distinct score.

    Args:
        id_scores: `(N,)` scores of ID images, higher = more OOD.
        ood_scores: `(M,)` scores of OOD images.

    Returns:
        Share of ID flagged and share of OOD detected, both `(points,)` float64, from 0 to 1.

    Raises:
        UserError: As in `compute_metrics`.
    """
    shares = []
    for counts in _level_counts(id_scores, ood_scores):
        reached = np.append(0, counts[::-1].cumsum())
        shares.append(torch.from_numpy(reached / reached[-1]))
    return shares[0], shares[1]
