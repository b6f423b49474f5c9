"""Baselines that score the classifier's logits `(B, K)`.

A maker returns what maps logits to scores `(B,)`, higher = more OOD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Score = Callable[[Tensor], Tensor]

# Without a wrong prediction, the likelihood has no maximum.
_LOWEST, _HIGHEST = 0.1, 10.0


def from_library(name: str) -> Score:
    """A detector of pytorch-ood that has nothing to fit."""
    # Importing the library takes seconds, for which `--help` should not wait.
    from pytorch_ood import detector

    score: Score = getattr(detector, name)(None).predict_logits
    return score


def gen(*, gen_classes: int) -> Score:
    """GEN with γ = 0.1 over the most likely classes (Liu et al., 2023).

    Args:
        gen_classes: The number of these classes; fewer classes are all used.
    """
    return partial(_gen, gen_classes)


def _gen(gen_classes: int, logits: Tensor) -> Tensor:
    from pytorch_ood.detector import GEN

    # GEN sorts the probabilities to select some, which changes the last bits of their mean.
    most = gen_classes if logits.shape[1] > gen_classes else None
    scores: Tensor = GEN.score(logits, gamma=0.1, M=most)
    return scores


def temperature(fit: Mapping[str, Tensor]) -> Score:
    """MSP of logits that are divided by the temperature that `fit_temperature` found."""
    from pytorch_ood.detector import MaxSoftmax

    score: Score = MaxSoftmax(None, t=float(fit["temperature"])).predict_logits
    return score


def fit_temperature(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The temperature with the highest likelihood of the labels (Guo et al., 2017).

    The optimizer of pytorch-ood, L-BFGS with a step of 0.01, ends before the optimum.

    Args:
        logits: `(N, K)` of ID validation images.
        labels: `(N,)` int64, their classes.

    Returns:
        `temperature`, `(1,)` float64, in [0.1, 10].
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    bounds = (math.log(_LOWEST), math.log(_HIGHEST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
    return {"temperature": torch.tensor([math.exp(best.x)], dtype=torch.float64)}


def is_temperature(fit: Mapping[str, Tensor], classes: int) -> bool:  # noqa: ARG001
    """Whether tensors are a result of `fit_temperature`."""
    value = fit.get("temperature")
    return (
        len(fit) == 1
        and value is not None
        and value.shape == (1,)
        and value.dtype == torch.float64
        and _LOWEST <= float(value) <= _HIGHEST
    )


class PosteriorDivergence:
    """KL divergence from the closest of the mean posteriors (Hendrycks et al., 2022).

    Args:
        fit: The result of `fit_klm`.
    """

    def __init__(self, fit: Mapping[str, Tensor]) -> None:
        from pytorch_ood.detector import KLMatching

        self._detector = KLMatching(None)
        for number, posterior in enumerate(fit["posteriors"]):
            self._detector.dists[str(number)] = nn.Parameter(posterior, requires_grad=False)

    def __call__(self, logits: Tensor) -> Tensor:
        """Score logits `(B, K)`: `(B,)` float64, higher = more OOD."""
        # In float32, small probabilities would be 0.
        scores: Tensor = self._detector.predict_logits(logits.double())
        return scores


def fit_klm(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:  # noqa: ARG001
    """The mean posterior of the ID validation images that are predicted as each class.

    Args:
        logits: `(N, K)` of ID validation images.
        labels: `(N,)` int64, their classes, which are not used.

    Returns:
        `posteriors`, `(P, K)` float64, of the P classes that are predicted at all.
    """
    from pytorch_ood.detector import KLMatching

    detector = KLMatching(None).fit_logits(logits.double())
    return {
        "posteriors": torch.stack([posterior.detach() for posterior in detector.dists.values()])
    }


def are_posteriors(fit: Mapping[str, Tensor], classes: int) -> bool:
    """Whether tensors are a result of `fit_klm` for a number of classes."""
    rows = fit.get("posteriors")
    if len(fit) != 1 or rows is None or rows.ndim != 2 or rows.dtype != torch.float64:
        return False
    sums = rows.sum(1)
    return (
        1 <= len(rows) <= classes == rows.shape[1]
        and bool((rows >= 0).all())
        and torch.allclose(sums, torch.ones_like(sums))
    )
