"""Failures of networks, whose code and sizes come from users and files, as errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffguard.errors import UserError, reason_of

# Messages of allocators that raise a plain RuntimeError.
_SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def failure_report(what: str, advice: str) -> Iterator[None]:
    """Report an exception of a network as a `UserError`; a lack of memory passes through.

    Args:
        what: What fails, such as `the classifier fails on images of 8 × 8`.
        advice: What to check.

    Raises:
        UserError: With the network's own reason, for any exception in the block.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Networks may raise any exception.
        if is_out_of_memory(error):
            raise
        raise UserError(f"{what} ({reason_of(error)}): {advice}") from error
