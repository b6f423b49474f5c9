"""Distances of features to Gaussians that share one covariance.

With the class means m_k and the scatter matrix S = Σ_i (f_i - m_{y_i}) (f_i - m_{y_i})ᵀ, pooled
within the classes, the squared distance of a feature f to class k is (f - m_k)ᵀ S⁻¹ (f - m_k). Lee
et al. (2018) divide S by the number of features N. As in pytorch-ood, S is not divided here: all
distances are 1/N of theirs, which changes no order.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps S invertible if a feature never varies; pytorch-ood's value.
_RIDGE = 1e-6
# The smallest ridge with which the factorization in float64 succeeds, as a share of the trace.
_SMALLEST_SHARE = 1e-12


class SharedGaussians:
    """Gaussians with separate means and one shared covariance, fitted in float64.

    Args:
        features: `(N, D)`.
        groups: `(N,)` int64 in [0, G); each group has at least one row.
    """

    def __init__(self, features: Tensor, groups: Tensor) -> None:
        features = features.double()
        counts = torch.bincount(groups).double()
        sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, groups, features)
        means = sums / counts[:, None]
        centered = features - means[groups]
        scatter = centered.T @ centered
        ridge = max(_RIDGE, _SMALLEST_SHARE * float(scatter.trace()))
        factor = torch.linalg.cholesky(scatter + ridge * torch.eye(len(scatter)))
        # With S = L Lᵀ, the distance is the Euclidean one of L⁻¹ f and L⁻¹ m_k.
        self._whiten = torch.linalg.solve_triangular(
            factor, torch.eye(len(factor), dtype=factor.dtype), upper=False
        ).T.contiguous()
        self._means = means @ self._whiten

    def squared_distances(self, features: Tensor) -> Tensor:
        """Squared distances of features `(B, D)` to the means, `(B, G)` float64."""
        whitened = features.double() @ self._whiten
        # Matrix products would make a distance depend on its place in the batch.
        return torch.cdist(
            whitened, self._means, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()


class Mahalanobis:
    """Half the squared distance to the nearest class (Lee et al., 2018).

    Args:
        features: `(N, D)` of ID training images.
        labels: `(N,)` int64, their classes; each class up to the highest has a row.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self._classes = SharedGaussians(features, labels)

    def predict_features(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)` float64, higher = more OOD."""
        return self._classes.squared_distances(features).amin(1) / 2


class RelativeMahalanobis:
    """Squared distance to the nearest class minus that to the overall mean (Ren et al., 2021).

    Args:
        features: `(N, D)` of ID training images.
        labels: `(N,)` int64, their classes; each class up to the highest has a row.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self._classes = SharedGaussians(features, labels)
        self._all = SharedGaussians(features, torch.zeros_like(labels))

    def predict_features(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)` float64, higher = more OOD."""
        nearest = self._classes.squared_distances(features).amin(1)
        return nearest - self._all.squared_distances(features)[:, 0]
