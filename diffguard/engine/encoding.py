"""Images on their way into the engine: encoded in full batches, and noised where phases start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.batching import in_fixed_batches
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.jobs import Job, Reach, Source
from diffguard.engine.program import NoisedImage
from diffguard.randomness import image_generator


@torch.no_grad()
def encode(
    denoiser: Denoiser, jobs: Sequence[Job], batch_size: int, *, previews: bool
) -> list[Source]:
    """Encode images in calls of one shape.

    Args:
        denoiser: The diffusion model.
        jobs: The images, at least one.
        batch_size: Rows of every call.
        previews: Whether an observer compares states with images.

    Returns:
        Each image with its clean state.
    """
    images = torch.stack([job.image for job in jobs])
    states = in_fixed_batches(denoiser.encode, images, batch_size)
    views: list[Tensor | None] = [None] * len(jobs)
    if previews:
        # Once for all steps, because a latent model decodes here.
        views = list(in_fixed_batches(denoiser.preview, states, batch_size))
    masks = [job.mask for job in jobs]
    latent_masks = [None if m is None else denoiser.place_mask(m.unsqueeze(0))[0] for m in masks]
    sizes = iter(_sizes([mask for mask in latent_masks if mask is not None]))
    sources = []
    for job, state, mask, view in zip(jobs, states, latent_masks, views, strict=True):
        reach = Reach.of(job.label, None if mask is None else next(sizes))
        # Copies release the batch.
        view = None if view is None else view.clone()
        sources.append(Source(job, state.clone(), reach, mask, view))
    return sources


def _sizes(masks: list[Tensor]) -> list[int]:
    """Pixels in each mask; one copy from the device for all."""
    return torch.stack(masks).flatten(1).sum(1).tolist() if masks else []


def noised(source: Source, start: NoisedImage, plan: SamplingPlan) -> Tensor:
    """The clean state `(…)` of an image at a noise level; see `NoisedImage`."""
    clean, alpha = source.clean, plan.alphas[start.step]
    if start.noise == "none":
        return float(alpha.sqrt()) * clean
    parts = (*source.job.key, "noise", start.repeat, start.step)
    generator = image_generator(start.seed, *parts)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    if start.noise == "alone":
        return noise
    return float(alpha.sqrt()) * clean + float((1 - alpha).sqrt()) * noise
