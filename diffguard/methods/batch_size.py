"""How many rows a network call has: what a run began with, or what fits and is fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from diffguard.batching import ROW_MULTIPLE, fixed_batch_size
from diffguard.engine.memory import free_memory, is_out_of_memory, too_large
from diffguard.errors import UserError
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.items import Item
from diffguard.methods.stream import ScoreStream
from diffguard.scores.baselines import Baselines

AUTO = "auto"
LARGEST = 1024
# Steps of inversion that are measured: with one, what is done once for an image would weigh more
# than in use, and all of them would take too long.
_STEPS = 4
# A larger batch must be faster by this much to be worth its memory.
_GAIN = 1.02


def begun_with(manifest: Mapping[str, Any] | None, asked: int | str) -> int | None:
    """The batch size of the run that a manifest belongs to, if what is asked for allows it.

    Args:
        manifest: That of the folder of scores; None for a new one.
        asked: `data.batch_size`.

    Returns:
        The frozen size; None where the run is new, or another size than it began with is asked for.
    """
    if manifest is None or "batch_size" not in manifest:
        return None
    frozen, before = manifest["batch_size"], manifest.get("batch_size_asked")
    same = asked in (AUTO, before) or fixed_batch_size(int(asked)) == frozen
    return frozen if same else None


def fastest(rate: Callable[[int], float], limit: int) -> int:
    """Double the batch size until memory runs out or it pays no more.

    Args:
        rate: Batch size -> speed; runs out of memory where it is too large.
        limit: Largest size that makes sense.

    Returns:
        The fastest size that fits; of about equal ones the smallest.

    Raises:
        UserError: If not even the smallest fits.
    """
    best, best_rate, slower = 0, 0.0, 0
    size = ROW_MULTIPLE
    while size <= limit and slower < 2:
        try:
            found = rate(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = None
        if found is None:
            free_memory()
            break
        if found > best_rate * _GAIN:
            best, best_rate, slower = size, found, 0
        else:
            slower += 1
        size *= 2
    if not best:
        raise UserError(too_large(ROW_MULTIPLE))
    return best


def find_batch_size(method: DiffGuard, baselines: Baselines, images: int) -> int:
    """The fastest batch size that fits, measured on random images.

    Args:
        method: The method, on its device, in the precision and mode of its use.
        baselines: Post-hoc detectors that are scored too.
        images: How many images are to be scored; a batch is no larger than needed for them.
    """
    limit = min(LARGEST, fixed_batch_size(max(1, images)))
    return fastest(lambda size: _passes_per_second(method, baselines, size), limit)


def _passes_per_second(method: DiffGuard, baselines: Baselines, size: int) -> float:
    """Run all that scoring does, in its shapes, but with few steps of inversion."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, method.image_channels, method.image_size, method.image_size)
    images = torch.rand(shape, generator=generator)
    items = [Item(image, index=i) for i, image in enumerate(images)]
    recipe = method.recipe()
    recipe = replace(recipe, max_steps=min(_STEPS, recipe.max_steps), skip=None)
    began = rows = 0.0
    # The first round also allocates memory and chooses kernels.
    for _ in range(2):
        stream = ScoreStream(method, baselines, None, size, recipe=recipe)
        began = time.perf_counter()
        stream.push(items)
        stream.flush()
        rows = float(stream.reconstructor.rows)
    return rows / (time.perf_counter() - began)
