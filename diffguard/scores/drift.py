"""Drift: whether a set of images as a whole differs from the ID validation images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# Features that a test compares on each side; the matrix of distances grows with their square.
SAMPLE_SIZE = 500
_PERMUTATIONS = 999
# Probability of reporting a drift if there is none.
_LEVEL = 0.05


@dataclass(frozen=True)
class Drift:
    """Two tests of one hypothesis: the images have the distribution of the validation images.

    Attributes:
        score_p: p-value in (0, 1] of the Kolmogorov-Smirnov test on the decision score.
        features_p: p-value in (0, 1] of the energy test on the classifier's features.
    """

    score_p: float
    features_p: float

    @property
    def is_found(self) -> bool:
        """Whether one of the tests rejects; both together do so wrongly in 5% of all cases."""
        return min(self.score_p, self.features_p) <= _LEVEL / 2

    def __str__(self) -> str:
        text = "found" if self.is_found else "not found"
        return (
            f"drift {text}: p = {self.score_p:.3g} by the decision score (Kolmogorov-Smirnov), "
            f"p = {self.features_p:.3g} by the classifier's features (energy test)"
        )


class FeatureSample:
    """A random sample of at most `SAMPLE_SIZE` feature vectors from batches of any number.

    Args:
        seed: Seed of the choice.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._keys, self._features = torch.empty(0), torch.empty(0, 0)

    def add(self, features: Tensor) -> None:
        """Consider a batch of features `(N, D)`."""
        features = features.detach().float().cpu()
        keys = torch.cat([self._keys, torch.rand(len(features), generator=self._generator)])
        if len(self._features):
            features = torch.cat([self._features, features])
        # The images with the highest keys are a random choice of all images so far.
        sample = keys.topk(min(len(keys), SAMPLE_SIZE)).indices.sort().values
        self._keys, self._features = keys[sample], features[sample]

    def features(self) -> Tensor:
        """The sample `(n, D)` float32, in the order in which its images came."""
        return self._features


def compare(
    reference: ArrayLike, scores: ArrayLike, reference_features: Tensor, features: Tensor
) -> Drift:
    """Compare images with the ID validation images.

    Args:
        reference: `(n,)` decision scores of the validation images.
        scores: `(N,)` decision scores of the images.
        reference_features: `(m, D)` features of some validation images.
        features: `(M, D)` features of some of the images.
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # If the exact p-value cannot be computed, scipy warns and takes the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        score_p = float(ks_2samp(np.asarray(reference), np.asarray(scores)).pvalue)
    return Drift(score_p, energy_test(reference_features, features))


def energy_test(first: Tensor, second: Tensor, *, seed: int = 0) -> float:
    """p-value of the energy test of equal distributions (Székely and Rizzo, 2004).

    The statistic is 2 E|X − Y| − E|X − X′| − E|Y − Y′|, which is 0 for equal distributions and
    positive for all others. Its p-value comes from random permutations.

    Args:
        first: `(n, D)`.
        second: `(m, D)`.
        seed: Seed of the permutations.

    Returns:
        The p-value in (0, 1], lower = more different.
    """
    from scipy.stats import permutation_test

    pooled = torch.cat([first, second]).double()
    distances = torch.cdist(pooled, pooled).numpy()
    sums = distances.sum(axis=1)

    def statistic(x: NDArray[np.intp], y: NDArray[np.intp], axis: int) -> NDArray[np.float64]:  # noqa: ARG001
        membership = np.zeros((*x.shape[:-1], len(pooled)))
        np.put_along_axis(membership, x, 1.0, axis=-1)
        inside = (membership @ distances * membership).sum(-1)
        across = membership @ sums - inside
        outside = sums.sum() - inside - 2 * across
        n, m = x.shape[-1], y.shape[-1]
        return 2 * across / (n * m) - inside / n**2 - outside / m**2

    places = np.arange(len(pooled))
    result = permutation_test(
        (places[: len(first)], places[len(first) :]),
        statistic,
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        batch=100,
        alternative="greater",
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)
