"""Baselines that need the gradient of the classifier with respect to the images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


class Odin:
    """ODIN (Liang et al., 2018): MSP at a high temperature after a step that raises it.

    It takes two forward passes and a backward pass of the classifier.

    Args:
        network: Images `(B, C, H, W)` in [0, 1] to logits `(B, K)`.
        odin_temperature: Divisor of the logits, at least 1.
        odin_step: Size of the step, in units of the images' range [0, 1].
    """

    def __init__(self, network: Score, *, odin_temperature: float, odin_step: float) -> None:
        from pytorch_ood.detector import ODIN

        self._detector = ODIN(network, eps=odin_step, temperature=odin_temperature)

    def __call__(self, images: Tensor) -> Tensor:
        """Score images `(B, C, H, W)`: `(B,)`, higher = more OOD."""
        # The library warns if it has to leave the inference mode of Lightning itself.
        with torch.inference_mode(mode=False):
            scores: Tensor = self._detector.predict(images)
        return scores
