"""What to do when memory runs out: free it, and explain the error."""

from __future__ import annotations

import gc

import torch

from diffguard.batching import ROW_MULTIPLE


def free_memory() -> None:
    """Return unused memory to the system and the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(size: int) -> str:
    """The error line when memory runs out and the batch cannot shrink."""
    if size <= ROW_MULTIPLE:
        return (
            f"out of memory even with {ROW_MULTIPLE} images a batch: take a smaller diffusion "
            "model or image size, free the memory of other programs, or score on another device"
        )
    return (
        f"out of memory with {size} images a batch; finished scores are kept. Free the memory of "
        "other programs and score again; or start over with a smaller batch_size and another "
        "output (--data.batch_size and --output of a command), because scores depend on the batch "
        "size"
    )
