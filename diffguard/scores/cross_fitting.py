"""Scores of the images that a score is fitted to.

A new image is scored by a fit that does not include it. An image that is scored by a fit to itself
gets a lower score, and a threshold on such scores would accept too few new images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Fit = Mapping[str, Tensor]

# With 20, thresholds on fused scores of 400 images would accept slightly too few.
FOLDS = 50


def cross_fitted(
    logits: Tensor,
    labels: Tensor,
    fit: Callable[[Tensor, Tensor], Fit],
    make: Callable[[Fit], Callable[[Tensor], Tensor]],
) -> Tensor:
    """Score each image by a fit to the images outside its fold.

    The folds are drawn at random, always in the same way: in images that are sorted by class, a
    regular fold could hold all images of a class. Up to 50 images, each is left out alone.

    Args:
        logits: `(n, K)` of n images, at least 2.
        labels: `(n,)` int64, their classes.
        fit: Logits and labels to what is fitted.
        make: What is fitted to a function from logits `(B, K)` to scores `(B,)`.

    Returns:
        `(n,)` float64.
    """
    count = len(logits)
    folds = min(count, FOLDS)
    fold_of = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % folds
    scores = torch.empty(count, dtype=torch.float64)
    for number in range(folds):
        fold = fold_of == number
        scores[fold] = make(fit(logits[~fold], labels[~fold]))(logits[fold]).double()
    return scores
