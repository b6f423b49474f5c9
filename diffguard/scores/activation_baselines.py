"""Baselines that change the activations or weights of the last layer and score the new logits.

The activations are the features `(B, D)`, the input of the last layer: after pooling, as in
OpenOOD. Scores are the energy −log Σ_c exp(l_c) of the new logits, `(B,)`, higher = more OOD.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.scores.reference import Reference

Score = Callable[[Tensor], Tensor]


def react(reference: Reference, head: nn.Linear, *, react_percentile: float) -> Score:
    """ReAct (Sun et al., 2021): activations are clipped from above.

    Args:
        reference: Features of ID training images.
        head: The classifier's last layer.
        react_percentile: Share of all activations of these images below the limit, in (0, 1).
    """
    from pytorch_ood.detector import ReAct

    limit = quantile(reference, react_percentile)
    score: Score = ReAct(None, head, threshold=limit).predict_feature_maps
    return score


def ash(head: nn.Linear, *, ash_percentile: float) -> Score:
    """ASH-B (Djurisic et al., 2023): the largest activations of an image share their sum equally.

    Args:
        head: The classifier's last layer.
        ash_percentile: Share of the activations of an image that are set to 0, in [0, 1).
    """
    from pytorch_ood.detector import ASH

    detector = ASH(None, _after_flattening(head), variant="ash-b", percentile=ash_percentile)
    return _OnMaps(detector.predict_feature_maps)


def scale(head: nn.Linear, *, scale_percentile: float) -> Score:
    """SCALE (Xu et al., 2024): activations times exp(sum of all / sum of the largest).

    Args:
        head: The classifier's last layer.
        scale_percentile: Share of the activations of an image that are not among the largest, in
            [0, 1).
    """
    from pytorch_ood.detector import SCALE

    detector = SCALE(None, _after_flattening(head), percentile=scale_percentile)
    return _OnMaps(detector.predict_feature_maps)


class Dice:
    """DICE (Sun and Li, 2022): weights with a small contribution on ID training images are 0.

    pytorch-ood's `DICE` gives the same scores with B · K · D numbers of memory.

    Args:
        reference: Features of ID training images.
        head: The classifier's last layer.
        dice_sparsity: Share of the weights that are set to 0, in [0, 1).
    """

    def __init__(self, reference: Reference, head: nn.Linear, *, dice_sparsity: float) -> None:
        contributions = reference.features.mean(0) * head.weight
        limit = float(np.quantile(contributions.numpy(), dice_sparsity))
        is_large = contributions > limit
        if dice_sparsity == 0:  # the quantile is then the smallest contribution
            is_large.fill_(True)
        self._weight = head.weight.where(is_large, torch.zeros(()))
        self._bias = head.bias

    def __call__(self, features: Tensor) -> Tensor:
        """Score features `(B, D)`: `(B,)`, higher = more OOD."""
        return -F.linear(features, self._weight, self._bias).logsumexp(1)


def quantile(reference: Reference, share: float) -> float:
    """The smallest number that at least a share of all activations do not exceed.

    It is found by bisection, because sorting all activations would copy them.
    """
    wanted = share * reference.features.numel()

    def is_enough(limit: float) -> bool:
        below = (int(torch.count_nonzero(part <= limit)) for part, _ in reference.chunks())
        return sum(below) >= wanted

    low, high = float(reference.features.min()), float(reference.features.max())
    if is_enough(low):
        return low
    # Ends at two neighboring numbers of float32.
    while low < (middle := float(np.float32((low + high) / 2))) < high:
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


class _OnMaps:
    """A score of maps `(B, D, 1, 1)` as a score of features `(B, D)`."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(self, features: Tensor) -> Tensor:
        return self._score(features[:, :, None, None])


def _after_flattening(head: nn.Linear) -> nn.Module:
    return nn.Sequential(nn.Flatten(), head)
