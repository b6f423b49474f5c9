"""Distance to the k-th nearest ID training feature (KNN, Sun et al., 2022)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional as F

from diffguard.scores.reference import Reference, UnitRows

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors


class NeighborDistance:
    """Distance to the k-th nearest feature, all divided by their Euclidean norm.

    pytorch-ood's `KNN` gives the same scores, but copies the features twice while it is fitted. A
    large reference is searched in chunks.

    Args:
        reference: Features of ID training images.
        knn_k: Number k of neighbors among all ID training images, see `Reference.neighbors`.
    """

    def __init__(self, reference: Reference, *, knn_k: int) -> None:
        # Importing scikit-learn takes seconds.
        from sklearn.neighbors import NearestNeighbors

        self.count = reference.neighbors(knn_k)
        self._rows = rows = UnitRows(reference)
        self.index = None if rows.whole is None else NearestNeighbors().fit(rows.whole.numpy())

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        unit = F.normalize(features, dim=1)
        if self.index is not None:
            return self._nearest(self.index, unit)[:, -1]
        from sklearn.neighbors import NearestNeighbors

        nearest = unit.new_empty(len(unit), 0)
        for rows in self._rows.chunks():
            index = NearestNeighbors().fit(rows.numpy())
            nearest = torch.cat([nearest, self._nearest(index, unit)], dim=1)
            nearest = nearest.topk(min(self.count, nearest.shape[1]), dim=1, largest=False).values
        return nearest[:, -1]

    def _nearest(self, index: NearestNeighbors, unit: Tensor) -> Tensor:
        """The smallest distances of features to those of an index, in ascending order."""
        # Without a limit, scikit-learn uses all cores instead of torch's number of threads.
        index.n_jobs = threads = torch.get_num_threads()
        count = min(self.count, index.n_samples_fit_)
        with _thread_pools().limit(limits=threads, user_api="openmp"):
            distances, _ = index.kneighbors(unit.numpy(), n_neighbors=count)
        return torch.from_numpy(distances)


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of all loaded libraries, including scikit-learn's."""
    return ThreadpoolController()
