"""CORE: confidence and orthogonal residual (Yang, Kim and Bahk, 2026, arXiv:2603.18290).

A feature z is split along the weight vector of the predicted class ŷ: z = (z · u) u + r, with the
unit vector u of w_ŷ. The confidence is the energy log Σ_c exp(l_c). The membership is the cosine of
the residual r and the mean residual of class ŷ over ID training images. Both are standardized on
these images; the score is minus their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.errors import UserError
from diffguard.scores.reference import Reference

_TINY = 1e-12


class ConfidenceAndResidual:
    """Sum of standardized energy and residual cosine, negated.

    Args:
        reference: Features of ID training images, with at least one of each class.
        head: The classifier's last layer.

    Raises:
        UserError: If a class has no reference image.
    """

    def __init__(self, reference: Reference, head: nn.Linear) -> None:
        counts = torch.bincount(reference.labels, minlength=head.out_features)
        if len(counts) > head.out_features or not counts.all():
            raise UserError(
                f"baseline core needs a reference image of each of the classifier's "
                f"{head.out_features} classes: raise detector.reference_images, add ID training "
                "images, or leave core out of detector.baselines"
            )
        self._head, self._directions = head, F.normalize(head.weight, dim=1)
        sums = torch.zeros_like(head.weight)
        for features, labels in reference.chunks():
            sums.index_add_(0, labels, self._residuals(features, labels))
        self._means = F.normalize(sums, dim=1)
        parts = torch.cat([self._parts(features) for features, _ in reference.chunks()], dim=1)
        self._center = parts.mean(1, keepdim=True)
        self._spread = parts.std(1, correction=0, keepdim=True).clamp(min=_TINY)

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        return -((self._parts(features) - self._center) / self._spread).sum(0)

    def _parts(self, features: Tensor) -> Tensor:
        """Energy and residual cosine, `(2, B)`."""
        logits = self._head(features)
        predictions = logits.argmax(1)
        residuals = self._residuals(features, predictions)
        cosines = F.cosine_similarity(residuals, self._means[predictions])
        return torch.stack([logits.logsumexp(1), cosines])

    def _residuals(self, features: Tensor, classes: Tensor) -> Tensor:
        directions = self._directions[classes]
        return features - (features * directions).sum(1, keepdim=True) * directions
