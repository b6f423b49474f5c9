"""The engine's outcomes for labeled images, on which early stop and methods are fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.engine.sampler import Sampler
from diffguard.images import pixel_key
from diffguard.methods.items import readable
from diffguard.methods.models import Models


def outcomes_of(
    models: Models,
    sampler: Sampler,
    program: Program,
    batches: Iterable[Mapping[str, Any]],
    batch_size: int,
) -> Iterator[Outcome]:
    """Run a program for all images that can be read; guidance is toward the predicted labels.

    Outcomes are returned as they are finished, so that not all are in memory together.

    Args:
        models: The networks, on their device.
        sampler: How states move.
        program: What is computed for each image.
        batches: Batches of images.
        batch_size: Rows of every network call.
    """
    engine = Engine(models.denoiser, sampler, program, batch_size)
    for batch, _ in readable(batches):
        images = batch.to(models.device)
        labels = models.classify(images, batch_size).logits.argmax(1).tolist()
        keys = [(pixel_key(image),) if program.draws_noise else () for image in batch]
        yield from engine.push(map(Job, images, labels, keys))
    yield from engine.flush()
