"""How well the diffusion model reconstructs ID images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffguard.engine.engine import Engine
from diffguard.engine.reproducible import reproducible
from diffguard.methods.items import Item, readable
from diffguard.methods.jobs import jobs_of
from diffguard.methods.models import Models
from diffguard.methods.recipes import recipe_of
from diffguard.scores.reconstruction import ReconstructionQuality, resemblance

# More images would hardly change the shares, and each costs a reconstruction.
_IMAGES = 64


@reproducible()
def reconstruction_quality(
    models: Models, batches: Iterable[Mapping[str, Any]], batch_size: int
) -> ReconstructionQuality:
    """Reconstruct a random choice of images and compare them with their reconstructions.

    Args:
        models: The networks, on their device.
        batches: Batches of ID validation images, at least two of them readable.
        batch_size: Rows of every network call.
    """
    images = _sample(batches)
    recipe = recipe_of(models)
    engine = Engine(models.denoiser, recipe.sampler, recipe.program(), batch_size)
    outcomes = []
    for batch in images.split(batch_size):
        moved = batch.to(models.device)
        predictions = models.classify(moved, batch_size).logits.argmax(1).tolist()
        items = [
            Item(image, prediction) for image, prediction in zip(batch, predictions, strict=True)
        ]
        jobs = jobs_of(models, items, moved, predictions, batch_size, is_random=recipe.draws_crops)
        for job, prediction in zip(jobs, predictions, strict=True):
            job.tag = prediction
        outcomes += engine.push(jobs)
    outcomes += engine.flush()
    results = [recipe.reconstruction(outcome) for outcome in outcomes]
    guided = torch.stack([result.guided for result in results])
    classes = models.classify(guided, batch_size).logits.argmax(1).tolist()
    agreement = [kind == result.job.tag for kind, result in zip(classes, results, strict=True)]
    originals = torch.stack([result.job.image for result in results])
    return ReconstructionQuality(
        len(results), sum(agreement) / len(agreement), resemblance(originals.cpu(), guided.cpu())
    )


def _sample(batches: Iterable[Mapping[str, Any]]) -> Tensor:
    """A random choice of at most `_IMAGES` images; lists are often sorted by class."""
    generator = torch.Generator().manual_seed(0)
    keys, sample = torch.empty(0), torch.empty(0)
    for images, _ in readable(batches):
        keys = torch.cat([keys, torch.rand(len(images), generator=generator)])
        sample = torch.cat([sample, images]) if len(sample) else images
        highest = keys.topk(min(len(keys), _IMAGES)).indices
        keys, sample = keys[highest], sample[highest]
    return sample
