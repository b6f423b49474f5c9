"""Distance to the k-th nearest ID training feature (KNN, Sun et al., 2022)."""

from __future__ import annotations

from functools import cache

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from diffguard.scores.reference import Reference


class NeighborDistance:
    """Distance to the k-th nearest feature, all divided by their Euclidean norm.

    pytorch-ood's `KNN` gives the same scores, but copies the features twice while it is fitted.

    Args:
        reference: Features of ID training images.
        knn_k: Number k of neighbors among all ID training images, see `Reference.neighbors`.
    """

    def __init__(self, reference: Reference, *, knn_k: int) -> None:
        # Importing scikit-learn takes seconds.
        from sklearn.neighbors import NearestNeighbors

        bank = torch.empty_like(reference.features)
        rows = 0
        for features, _ in reference.chunks():
            bank[rows : rows + len(features)] = _unit(features)
            rows += len(features)
        self.count = reference.neighbors(knn_k)
        self.index = NearestNeighbors().fit(bank.numpy())

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        # Without a limit, scikit-learn uses all cores instead of torch's number of threads.
        self.index.n_jobs = threads = torch.get_num_threads()
        with _thread_pools().limit(limits=threads, user_api="openmp"):
            distances, _ = self.index.kneighbors(_unit(features).numpy(), n_neighbors=self.count)
        return torch.from_numpy(distances[:, -1])


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of all loaded libraries, including scikit-learn's."""
    return ThreadpoolController()


def _unit(features: Tensor) -> Tensor:
    # A row of zeros stays finite.
    return features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
