r"""Exponential moving average of weights, $\bar w \leftarrow d\,\bar w + (1-d)\,w$."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Averaged = TypeVar("Averaged", bound=nn.Module)


class EMA(nn.Module, Generic[Averaged]):
    r"""A module whose weights are the moving average of another's.

    The decay of step $n$ is $\min(d, (1+n)/(10+n))$. Until it reaches $d$, the average covers about
    the last ninth of the steps so far, so the random start does not hold back short runs. This is
    the power function average of Karras et al. (2024) with $\gamma = 8$; they find widths of this
    order best.

    Args:
        module: The module to average. It is copied, except for weights that are not trained, which
            both share. The average is kept in float32 or better, because half precision would round
            away its small steps.
        decay: The largest decay d, in [0, 1): 0.999 is reached after 9,000 steps, 0.9999 after
            90,000.

    Attributes:
        module: The average.
    """

    module: Averaged

    def __init__(self, module: Averaged, decay: float) -> None:
        super().__init__()
        shared = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(module, shared).requires_grad_(False)
        for mean, current in zip(self.module.parameters(), module.parameters(), strict=True):
            if current.requires_grad and mean.dtype in (torch.bfloat16, torch.float16):
                mean.data = mean.data.float()
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average toward `module`.

        Args:
            module: The module in training.
            step: Number of earlier updates, 0 for the first.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        trained = [(mean, current) for mean, current in pairs if current.requires_grad]
        average([mean for mean, _ in trained], [new.to(mean.dtype) for mean, new in trained], step)
        # Buffers (running statistics, constant embeddings) have no gradient noise to average out.
        for mean, current in zip(self.module.buffers(), module.buffers(), strict=True):
            mean.copy_(current)
