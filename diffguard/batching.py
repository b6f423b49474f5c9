"""Network calls of one fixed shape.

With one batch shape a network always uses the same kernels and adds in the same order, so that the
result of a row does not depend on the other rows or on their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffguard.errors import UserError

# For other batch sizes, matrix products use a different kernel for the last few rows, so that a
# row's result would depend on its place in the batch.
ROW_MULTIPLE = 8
# Images of every network call, unless another number is chosen.
BATCH_SIZE = 64
# The batch size that stands for the fastest one.
AUTO = "auto"
# Bytes of the images of one network call; its layers need many times as much.
_LARGEST_CALL = 2**29


def most_rows(channels: int, height: int, width: int) -> int:
    """The most images of a network call; a batch of more would exhaust any memory."""
    return max(ROW_MULTIPLE, _LARGEST_CALL // (4 * channels * height * width))


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is not a whole number of at least 1.

    Raises:
        UserError: For such a batch size.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def fixed_batch_size(batch_size: int) -> int:
    """Round a batch size up to one at which a row's place does not matter."""
    return math.ceil(batch_size / ROW_MULTIPLE) * ROW_MULTIPLE


def padded(x: Tensor, size: int) -> Tensor:
    """Repeat the first row until there are `size` rows."""
    if len(x) == size:
        return x
    return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])])


def in_fixed_batches(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Apply a network to any number of rows, `size` at a time; the last batch is padded.

    Args:
        function: Maps rows `(size, …)` to a tensor of as many rows.
        x: `(N, …)`, N at least 1.
        size: Rows of each call.

    Returns:
        The N rows of the results.
    """
    parts = []
    for begin in range(0, len(x), size):
        rows = x[begin : begin + size]
        parts.append(function(padded(rows, size))[: len(rows)])
    return torch.cat(parts)
