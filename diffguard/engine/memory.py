"""Out-of-memory errors, recognized and explained."""

from __future__ import annotations

import gc

import torch

from diffguard.batching import ROW_MULTIPLE

# What allocators say that have no exception of their own.
_SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(size: int) -> str:
    """What to tell when memory runs out and no smaller batch can be taken."""
    if size <= ROW_MULTIPLE:
        return (
            f"out of memory even with {ROW_MULTIPLE} images a batch: take a smaller diffusion "
            "model or image size, free the memory that others use, or score on another device"
        )
    return (
        f"out of memory with {size} images a batch; what is scored is kept. Free the memory that "
        "others use and start the same command again; or begin anew with a smaller "
        "--data.batch_size and another --output, for a score belongs to its batch size"
    )
