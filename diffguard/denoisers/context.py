"""The cross-attention context of each label."""

from __future__ import annotations

from torch import Tensor, nn


class ClassContext(nn.Module):
    """The cross-attention context of each label: a table of token sequences.

    Args:
        table: `(labels, tokens, width)`: an embedding of the label (one token), or the encoded
            prompts of the classes' names; the null class has a row of its own.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, y: Tensor) -> Tensor:
        """Labels `(N,)` to contexts `(N, tokens, width)`."""
        return self.table[y]
