"""Baselines that need the gradient of the classifier with respect to the images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Score = Callable[[Tensor], Tensor]


def odin(network: Score, *, odin_temperature: float, odin_step: float) -> Score:
    """ODIN (Liang et al., 2018): MSP at a high temperature after a step that raises it.

    It takes two forward passes and a backward pass of the classifier.

    Args:
        network: Images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        odin_temperature: Divisor of the logits, above 0.
        odin_step: Size of the step, in units of the images' range [0, 1].

    Returns:
        A function from images to scores `(B,)`, higher = more OOD.
    """
    from pytorch_ood.detector import ODIN

    score: Score = ODIN(network, eps=odin_step, temperature=odin_temperature).predict
    return score
