"""Adaptive early stop as an observer of an inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffguard.diffusion.early_stop import should_stop
from diffguard.engine.observer import Observer, Sight

# Maps states and images, both `(N, C, h, w)`, to `(N,)`, higher = more like the image.
Quality = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EarlyStop(Observer):
    """Ends an inversion after the first step at which a quality falls below its threshold.

    Attributes:
        qualities: Pairs of a quality and its threshold; None switches it off.
    """

    sees_steps = True
    sees_previews = True

    qualities: tuple[tuple[Quality, float | None], ...]

    def on_step(self, sight: Sight) -> Tensor:
        """Compare the states with their images; see `Observer`."""
        states, images = sight.preview(sight.x), sight.image_previews()
        values = torch.stack([quality(states, images) for quality, _ in self.qualities])
        return should_stop(values, [threshold for _, threshold in self.qualities])
