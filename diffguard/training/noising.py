"""Noisy images as a classifier of noisy images sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser


@torch.no_grad()
def noised_images(denoiser: Denoiser, images: Tensor, t: Tensor) -> Tensor:
    """Add a diffusion model's noise to images.

    Args:
        denoiser: The diffusion model.
        images: `(N, C, H, W)` in [0, 1], on its device.
        t: Timesteps `(N,)`, int64.

    Returns:
        The states, in the form in which the model shows them as images, `(N, C', H', W')`.
    """
    z = denoiser.encode(images)
    noise = torch.randn(z.shape).to(z)
    return denoiser.preview(denoiser.schedule.add_noise(z, noise, t))
