"""Network calls of one fixed shape.

With one batch shape the kernels of a network, and so the order of its sums, stay the same: a row's
result does not depend on its neighbours or on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput

Output = TypeVar("Output", Tensor, ClassifierOutput)

# Matrix products treat the last few rows of other sizes by other kernels: there a row's result
# would depend on its place in the batch.
ROW_MULTIPLE = 8


def fixed_batch_size(batch_size: int) -> int:
    """Round a batch size up to one at which a row's place does not matter."""
    return -(-batch_size // ROW_MULTIPLE) * ROW_MULTIPLE


def padded(x: Tensor, size: int) -> Tensor:
    """Repeat the first row until there are `size` rows."""
    if len(x) == size:
        return x
    return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])])


def in_fixed_batches(function: Callable[[Tensor], Output], x: Tensor, size: int) -> Output:
    """Apply a network to any number of rows, `size` at a time, the last padded.

    Args:
        function: Rows `(size, …)` to a tensor (or classifier output) of as many rows.
        x: `(N, …)`, N at least 1.
        size: Rows of each call.

    Returns:
        The N rows of the results.
    """
    parts = []
    for begin in range(0, len(x), size):
        rows = x[begin : begin + size]
        part = function(padded(rows, size))
        parts.append(
            part[: len(rows)] if isinstance(part, Tensor) else part.select(slice(len(rows)))
        )
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return ClassifierOutput.concatenate(parts)
