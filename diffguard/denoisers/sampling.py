"""Samples of each class from a diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.path import Path
from diffguard.diffusion.plan import SamplingPlan


@torch.no_grad()
def draw_samples(
    denoiser: DiffusersDenoiser,
    labels: Tensor,
    *,
    steps: int,
    scale: float,
    seed: int = 0,
) -> Tensor:
    """Sample images by DDIM from noise that depends only on the seed.

    Args:
        denoiser: The model, in evaluation mode.
        labels: `(N,)` int64 classes on the model's device; for a model without classes, only
            their number is used.
        steps: DDIM steps.
        scale: Scale of classifier-free guidance, if the model has a null class.
        seed: Seed of the noise.

    Returns:
        `(N, C, H, W)` in [0, 1].
    """

    def predict_noise(x: Tensor, t: Tensor) -> Tensor:
        if denoiser.num_classes is None:
            return denoiser.predict_noise(x, t, None)
        if denoiser.null_class is None or scale == 1:
            return denoiser.predict_noise(x, t, labels)
        both = torch.cat([torch.full_like(labels, denoiser.null_class), labels])
        noise = denoiser.predict_noise(torch.cat([x, x]), torch.cat([t, t]), both)
        noise_null, noise_label = noise.chunk(2)
        return classifier_free(noise_null, noise_label, scale)

    plan = SamplingPlan.build(denoiser.schedule, steps)
    shape = (len(labels), denoiser.channels, denoiser.state_size, denoiser.state_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    path = Path(Ddim(plan.pairing), plan, x, clip=True)
    *_, clean = path.synthesize(predict_noise, len(plan) - 1)
    return denoiser.decode(clean)
