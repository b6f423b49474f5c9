"""Distances of features to Gaussians that share one covariance.

With the class means m_k and the scatter matrix S = Σ_i (f_i - m_{y_i}) (f_i - m_{y_i})ᵀ, pooled
within the classes, the squared distance of a feature f to class k is (f - m_k)ᵀ S⁻¹ (f - m_k). Lee
et al. (2018) divide S by the number of features N. As in pytorch-ood, S is not divided here: all
distances are 1/N of theirs, which changes no order.

Mahalanobis++ (Mueller and Hein, 2025) divides features by their Euclidean norm first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.scores.reference import Reference

# Keeps S invertible if a feature never varies; pytorch-ood's value.
_RIDGE = 1e-6
# The smallest ridge with which the factorization in float64 succeeds, as a share of the trace.
_SMALLEST_SHARE = 1e-12


class SharedGaussians:
    """Gaussians with separate means and one shared covariance, fitted in float64.

    Args:
        reference: Features of ID training images.
        classes: Whether each class has its own mean; each class up to the highest then has a row.
            Otherwise there is one mean.
        unit: Whether features are divided by their Euclidean norm.
    """

    def __init__(self, reference: Reference, *, classes: bool, unit: bool) -> None:
        self._is_unit = unit
        groups = int(reference.labels.max()) + 1 if classes else 1
        width = reference.features.shape[1]
        counts = torch.zeros(groups, dtype=torch.float64)
        sums = torch.zeros(groups, width, dtype=torch.float64)
        scatter = torch.zeros(width, width, dtype=torch.float64)
        for features, labels in reference.chunks():
            members = labels if classes else torch.zeros_like(labels)
            counts += torch.bincount(members, minlength=groups)
            sums.index_add_(0, members, self._prepared(features))
        means = sums / counts[:, None]
        for features, labels in reference.chunks():
            members = labels if classes else torch.zeros_like(labels)
            centered = means[members]
            torch.sub(self._prepared(features), centered, out=centered)
            scatter += centered.T @ centered
        ridge = max(_RIDGE, _SMALLEST_SHARE * float(scatter.trace()))
        factor = torch.linalg.cholesky(scatter + ridge * torch.eye(len(scatter)))
        # With S = L Lᵀ, the distance is the Euclidean one of L⁻¹ f and L⁻¹ m_k.
        self._whiten = torch.linalg.solve_triangular(
            factor, torch.eye(len(factor), dtype=factor.dtype), upper=False
        ).T.contiguous()
        self._means = means @ self._whiten

    def squared_distances(self, features: Tensor) -> Tensor:
        """Squared distances of features `(B, D)` to the means, `(B, G)` float64."""
        whitened = self._prepared(features) @ self._whiten
        # Matrix products would make a distance depend on its place in the batch.
        return torch.cdist(
            whitened, self._means, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()

    def _prepared(self, features: Tensor) -> Tensor:
        features = features.double()
        return F.normalize(features, dim=1) if self._is_unit else features


class Mahalanobis:
    """Half the squared distance to the nearest class (Lee et al., 2018).

    Args:
        reference: Features of ID training images; each class up to the highest has a row.
        unit: Whether features are divided by their Euclidean norm, as in Mahalanobis++.
    """

    def __init__(self, reference: Reference, *, unit: bool = False) -> None:
        self._classes = SharedGaussians(reference, classes=True, unit=unit)

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)` float64, higher = more OOD."""
        return self._classes.squared_distances(features).amin(1) / 2


class RelativeMahalanobis:
    """Squared distance to the nearest class minus that to the overall mean (Ren et al., 2021).

    Args:
        reference: Features of ID training images; each class up to the highest has a row.
        unit: Whether features are divided by their Euclidean norm, as in Mahalanobis++.
    """

    def __init__(self, reference: Reference, *, unit: bool = False) -> None:
        self._classes = SharedGaussians(reference, classes=True, unit=unit)
        self._all = SharedGaussians(reference, classes=False, unit=unit)

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)` float64, higher = more OOD."""
        nearest = self._classes.squared_distances(features).amin(1)
        return nearest - self._all.squared_distances(features)[:, 0]
