"""The fastest batch size of network calls that fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from diffguard.batching import ROW_MULTIPLE, fixed_batch_size
from diffguard.engine.memory import free_memory, too_large
from diffguard.errors import UserError
from diffguard.failures import is_out_of_memory
from diffguard.methods.items import Item
from diffguard.methods.method import Method
from diffguard.methods.models import Models
from diffguard.methods.stream import ScoreStream
from diffguard.scores.baselines import Baselines

LARGEST = 1024
# Steps of each part that are measured. With one step, work that is done once per image would weigh
# too much; all steps would take too long.
_STEPS = 4
# A larger batch must be faster by this much to be worth its memory.
_GAIN = 1.02


def fastest(rate: Callable[[int], float], limit: int) -> int:
    """Double the batch size until memory runs out or the speed stops rising.

    Args:
        rate: Batch size -> speed; raises an out-of-memory error if the size is too large.
        limit: Largest size to try.

    Returns:
        The fastest size that fits; among about equal ones, the smallest.

    Raises:
        UserError: If not even the smallest fits.
    """
    best, best_rate, slower = 0, 0.0, 0
    size = ROW_MULTIPLE
    while size <= limit and slower < 2:
        try:
            speed: float | None = rate(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            speed = None
        if speed is None:
            free_memory()
            break
        if speed > best_rate * _GAIN:
            best, best_rate, slower = size, speed, 0
        else:
            slower += 1
        size *= 2
    if not best:
        raise UserError(too_large(ROW_MULTIPLE))
    return best


def find_batch_size(
    models: Models, methods: Sequence[Method], baselines: Baselines, images: int
) -> int:
    """The fastest batch size that fits, measured on random images.

    Args:
        models: The networks and settings, on their device and in the precision of their use.
        methods: Their detection methods.
        baselines: Post-hoc detectors that are scored too.
        images: Number of images to score; a batch is not larger than needed for them.
    """
    limit = min(LARGEST, fixed_batch_size(max(1, images)))
    return fastest(lambda size: _passes_per_second(models, methods, baselines, size), limit)


def _passes_per_second(
    models: Models, methods: Sequence[Method], baselines: Baselines, size: int
) -> float:
    """Measure scoring in its real shapes, but with few steps."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, models.image_channels, models.image_size, models.image_size)
    images = torch.rand(shape, generator=generator)
    items = [Item(image, index=i) for i, image in enumerate(images)]
    began = rows = 0.0
    # The first round also allocates memory and chooses kernels.
    for _ in range(2):
        stream = ScoreStream(models, methods, baselines, None, size, most_steps=_STEPS)
        began = time.perf_counter()
        stream.push(items)
        stream.flush()
        rows = float(stream.engine.rows)
    return rows / (time.perf_counter() - began)
