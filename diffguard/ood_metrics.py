r"""Metrics of OOD detection, exact under ties.

With scores \(s\) (higher = more OOD) of ID and OOD images, an image is accepted as ID when
\(s \le t\) and flagged as OOD when \(s \ge t\). All metrics follow from how many ID and OOD images
there are at each distinct score, counted in integers and divided in float64:

- `auroc`: P(s_ood > s_id) + ½ P(s_ood = s_id).
- `aupr_in`, `aupr_out`: trapezoid under the points (recall, precision) of all distinct thresholds
  and (0, 1), with ID or with OOD as the positive class. This is the area of OpenOOD and of the
  DiffGuard paper; average precision (`ap_in`, `ap_out`) is a step-wise sum with other values.
- `fpr95_id_positive`: share of OOD accepted when at least 95% of ID is accepted (DiffGuard paper).
- `fpr95_ood_positive`: share of ID flagged when at least 95% of OOD is detected (OpenOOD v1.5).

torchmetrics' own curves are not used here: they divide integer counts in float32. The torchmetrics
`Metric` over these functions is `diffguard.metric.OODMetrics`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffguard.errors import UserError

_LEVEL = 0.95


def _level_counts(id_scores: Tensor, ood_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Count ID and OOD images at each distinct score, from the lowest score to the highest."""
    ident, ood = (p.detach().cpu().double().flatten().numpy() for p in (id_scores, ood_scores))
    scores = np.concatenate([ident, ood])
    broken = np.count_nonzero(~np.isfinite(scores))
    if broken:
        raise UserError(
            f"{broken} of {len(scores)} scores are NaN or infinite: a score must be finite, "
            "so find the image and the network that made it"
        )
    for name, part in (("ID", ident), ("OOD", ood)):
        if not len(part):
            raise UserError(
                f"there is no {name} image among {len(scores)} scores: OOD metrics compare ID "
                "(label >= 0) with OOD (label -1), so give both"
            )
    scores.sort()
    levels = scores[np.append(scores[1:] != scores[:-1], True)]
    return _counts_at(levels, ident), _counts_at(levels, ood)


def _counts_at(levels: NDArray[np.float64], scores: NDArray[np.float64]) -> Tensor:
    up_to = np.searchsorted(np.sort(scores), levels, side="right")
    return torch.from_numpy(np.diff(up_to, prepend=0))


def _auroc(id_counts: Tensor, ood_counts: Tensor) -> float:
    twice_below = 2 * id_counts.cumsum(0) - id_counts
    pairs = int(id_counts.sum()) * int(ood_counts.sum())
    return int((twice_below * ood_counts).sum()) / (2 * pairs)


def _aupr(positives: Tensor, negatives: Tensor) -> float:
    """Area under precision over recall; both counts start at the most positive score."""
    found = positives.cumsum(0).double()
    one, zero = found.new_ones(1), found.new_zeros(1)
    precision = torch.cat([one, found / (found + negatives.cumsum(0))])
    recall = torch.cat([zero, found / found[-1]])
    return float(torch.trapezoid(precision, recall))


def _ap(positives: Tensor, negatives: Tensor) -> float:
    found = positives.cumsum(0).double()
    precision = found / (found + negatives.cumsum(0))
    return float((precision * positives).sum() / found[-1])


def _fpr(positives: Tensor, negatives: Tensor) -> float:
    """False-positive rate at the first threshold that finds 95% of the positives."""
    found, alarms = positives.cumsum(0).double(), negatives.cumsum(0).double()
    first = int((found / found[-1] >= _LEVEL).int().argmax())
    return float(alarms[first] / alarms[-1])


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
    """
    low_id, low_ood = _level_counts(id_scores, ood_scores)
    high_id, high_ood = low_id.flip(0), low_ood.flip(0)
    return {
        "auroc": _auroc(low_id, low_ood),
        "aupr_in": _aupr(low_id, low_ood),
        "aupr_out": _aupr(high_ood, high_id),
        "fpr95_id_positive": _fpr(low_id, low_ood),
        "fpr95_ood_positive": _fpr(high_ood, high_id),
    }


def auroc(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Area under the ROC curve; arguments and errors as in `compute_metrics`."""
    return _auroc(*_level_counts(id_scores, ood_scores))


def aupr_in(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Area under precision over recall with ID as positive; arguments as in `compute_metrics`."""
    return _aupr(*_level_counts(id_scores, ood_scores))


def aupr_out(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Area under precision over recall with OOD as positive; arguments as in `compute_metrics`."""
    low_id, low_ood = _level_counts(id_scores, ood_scores)
    return _aupr(low_ood.flip(0), low_id.flip(0))


def ap_in(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Average precision with ID as positive, as scikit-learn and torchmetrics define it."""
    return _ap(*_level_counts(id_scores, ood_scores))


def ap_out(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Average precision with OOD as positive, as scikit-learn and torchmetrics define it."""
    low_id, low_ood = _level_counts(id_scores, ood_scores)
    return _ap(low_ood.flip(0), low_id.flip(0))


def fpr95_id_positive(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Share of OOD accepted when at least 95% of ID is accepted; see `compute_metrics`."""
    return _fpr(*_level_counts(id_scores, ood_scores))


def fpr95_ood_positive(id_scores: Tensor, ood_scores: Tensor) -> float:
    """Share of ID flagged when at least 95% of OOD is detected; see `compute_metrics`."""
    low_id, low_ood = _level_counts(id_scores, ood_scores)
    return _fpr(low_ood.flip(0), low_id.flip(0))


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
    n_id, n_ood = (n.flip(0).cumsum(0).double() for n in _level_counts(id_scores, ood_scores))
    zero = n_id.new_zeros(1)
    return torch.cat([zero, n_id / n_id[-1]]), torch.cat([zero, n_ood / n_ood[-1]])
