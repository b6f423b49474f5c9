"""Baselines that score the classifier's features `(B, D)`, most of them with its last layer.

A maker returns what maps features to scores `(B,)`, higher = more OOD. Fits compute on chunks of
the reference images, so that they need little memory beside the features themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.errors import UserError
from diffguard.scores.reference import Reference, UnitRows

Score = Callable[[Tensor], Tensor]

# Neighbors of NNGuide, as in pytorch-ood.
GUIDE_NEIGHBORS = 10
# Rows in which SHE classifies the reference images, as in pytorch-ood.
_PREDICTED_ROWS = 1024
# Keeps quotients finite.
_TINY = 1e-12


def vim(reference: Reference, head: nn.Linear, *, vim_dim: int | None) -> Score:
    """ViM (Wang et al., 2022).

    Args:
        reference: Features of ID training images.
        head: The classifier's last layer.
        vim_dim: Dimensions of the principal space, below D; defaults to half of D.
    """
    from pytorch_ood.detector import ViM

    width = head.in_features
    detector = ViM(None, d=vim_dim or width // 2, w=head.weight, b=head.bias)
    products, tops, residuals = torch.zeros(width, width), [], []
    for features, _ in reference.chunks():
        centered = features - detector.u
        products += centered.T @ centered
        tops.append((features @ detector.w.T + detector.b).amax(1))
    vectors = torch.linalg.eigh(products / len(reference.features)).eigenvectors
    # Eigenvalues ascend, so the first vectors span the complement of the principal space.
    space = vectors[:, : width - detector.d].contiguous()
    for features, _ in reference.chunks():
        residuals.append(((features - detector.u) @ space).norm(dim=-1))
    detector.principal_subspace = space
    detector.alpha = (torch.cat(tops).mean() / torch.cat(residuals).mean()).item()
    score: Score = detector.predict_features
    return score


def she(reference: Reference, head: nn.Linear) -> Score:
    """SHE (Zhang et al., 2023): inner product with the mean feature of the predicted class.

    Raises:
        UserError: If no reference image of a class is classified correctly.
    """
    from pytorch_ood.detector import SHE

    predictions = [head(rows).argmax(1) for rows in reference.features.split(_PREDICTED_ROWS)]
    right = torch.cat(predictions) == reference.labels
    recognized = set(reference.labels[right].tolist())
    empty = [str(k) for k in range(head.out_features) if k not in recognized]
    if empty:
        raise UserError(
            "baseline she needs a correctly classified reference image of each class, but "
            f"{len(empty)} of {head.out_features} classes have none (numbers "
            f"{', '.join(empty[:3])}, counted from 0): raise detector.reference_images, or leave "
            "she out of detector.baselines"
        )
    detector = SHE(None, head)
    members = (right & (reference.labels == k) for k in range(head.out_features))
    detector.patterns = torch.stack([_mean(reference, mask) for mask in members])
    score: Score = detector.predict_features
    return score


def _mean(reference: Reference, mask: Tensor) -> Tensor:
    """Mean feature of some of the images, `(D,)`; `mask` is `(N,)` bool."""
    rows = mask.nonzero()[:, 0]
    sums = [reference.features[part].sum(0) for part in rows.split(reference.chunk_rows)]
    return torch.stack(sums).sum(0) / len(rows)


class NNGuide:
    """NNGuide (Park et al., 2023): energy times the mean of the largest similarities, negated.

    pytorch-ood's `NNGuide` gives the same scores, but copies the features three times while it is
    fitted.

    Args:
        reference: Features of ID training images.
        head: The classifier's last layer.
    """

    def __init__(self, reference: Reference, head: nn.Linear) -> None:
        energies = [head(features).logsumexp(1) for features, _ in reference.chunks()]
        self._head, self._rows = head, UnitRows(reference, torch.cat(energies))

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        unit, top = F.normalize(features, dim=1), features.new_empty(len(features), 0)
        for rows in self._rows.chunks():
            candidates = torch.cat([top, unit @ rows.T], dim=1)
            top = candidates.topk(min(GUIDE_NEIGHBORS, candidates.shape[1]), dim=1).values
        return -(top.mean(1) * self._head(features).logsumexp(1))


class BoundaryDistance:
    """fDBD (Liu and Qin, 2024): mean distance to the decision boundaries over ‖z − μ‖, negated.

    With z the features, μ their mean over ID training images, ŷ the predicted class and l the
    logits, the distance to the boundary of class c is |l_ŷ − l_c| / ‖w_ŷ − w_c‖. pytorch-ood's
    `fDBD` gives the same scores with K · K · D numbers of memory, 8 GB for ImageNet.

    Args:
        reference: Features of ID training images.
        head: The classifier's last layer.
    """

    def __init__(self, reference: Reference, head: nn.Linear) -> None:
        self._head, self._mean = head, reference.features.mean(0)
        weight = head.weight
        norms = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        self._norms = norms.clamp(min=_TINY)

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        logits = self._head(features)
        top, predictions = logits.max(1)
        boundaries = (top[:, None] - logits) / self._norms[predictions]
        distances = (features - self._mean).norm(dim=1).clamp(min=_TINY)
        return -boundaries.sum(1) / ((self._head.out_features - 1) * distances)


def nci(reference: Reference, head: nn.Linear, *, nci_alpha: float) -> Score:
    """NCI (Liu and Qin, 2025): −(z − μ) · w_ŷ / ‖z − μ‖ − α ‖z‖₁.

    Args:
        reference: Features of ID training images, whose mean is μ.
        head: The classifier's last layer.
        nci_alpha: Weight α of the norm, at least 0.
    """
    from pytorch_ood.detector import NCI

    score: Score = NCI(None, head, nci_alpha).fit_features(reference.features).predict_features
    return score
