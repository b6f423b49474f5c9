r"""Exponential moving average of weights, $\bar w \leftarrow d\,\bar w + (1-d)\,w$."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(nn.Module):
    r"""A module whose weights are the moving average of another's.

    The decay of step $n$ is $\min(d, (1+n)/(10+n))$. Until it reaches $d$ the average reaches back
    over about a ninth of the steps made so far, however long the run, so that short runs are not
    held back by their random start: it is then the power function average of Karras et al. (2024)
    with $\gamma = 8$, for which they find widths of this order best.

    Args:
        module: The module to average; it is copied, but for weights that are not trained, which
            both share. The average is kept in float32 or better: in half precision the small steps
            of an average would be rounded away.
        decay: The largest decay d, in [0, 1): 0.999 is reached after 9,000 steps, 0.9999 after
            90,000.

    Attributes:
        module: The average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        shared = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(module, shared).requires_grad_(False)
        for kept, current in zip(self.module.parameters(), module.parameters(), strict=True):
            if current.requires_grad and kept.dtype in (torch.bfloat16, torch.float16):
                kept.data = kept.data.float()
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards `module`.

        Args:
            module: The module in training.
            step: How many updates went before, 0 for the first.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        trained = [(kept, current) for kept, current in pairs if current.requires_grad]
        average([kept for kept, _ in trained], [new.to(kept.dtype) for kept, new in trained], step)
        # Buffers (running statistics, constant embeddings) have no gradient noise to average out.
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
