r"""The loss of a diffusion model.

$$ L = \mathbb{E}_{x_0, \epsilon, t}\; w_t\, \lVert f(x_t, t, y) - \mathrm{target} \rVert^2 $$

The target is ε, v or $x_0$, depending on the model's schedule (Ho et al., 2020, eq. 14; Salimans &
Ho, 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.training.settings import LossWeighting


def loss_weights(schedule: NoiseSchedule, weighting: LossWeighting, gamma: float) -> Tensor:
    r"""Weight $w_t$ of each timestep.

    Args:
        schedule: The noise levels and the prediction type.
        weighting: `none` (all 1), or `min_snr` (Hang et al., 2023): with
            $\mathrm{SNR} = \bar\alpha / (1 - \bar\alpha)$, the error of the clean image has the
            weight $\min(\mathrm{SNR}, \gamma)$ for every prediction type.
        gamma: The cutoff γ of `min_snr`.

    Returns:
        `(T,)` float32.
    """
    if weighting == "none":
        return torch.ones(len(schedule))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    # Squared errors of x_0, ε and v have the ratio 1 : SNR : SNR + 1.
    unit = {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}
    return (snr.clamp(max=gamma) / unit[schedule.prediction_type]).float()


def spread_timesteps(count: int, steps: int) -> Tensor:
    """Random timesteps `(count,)` int64 in [0, steps), each uniform, together spread evenly.

    One timestep falls into each of `count` equal parts, in random order. The gradient is then less
    noisy than with independent draws (Kingma et al., 2021, I.1). They are drawn on the CPU, so that
    a seed gives the same timesteps on every device.
    """
    places = (torch.arange(count) + torch.rand(count)) / count
    return (places * steps).long().clamp(max=steps - 1)[torch.randperm(count)]


def denoising_losses(
    denoiser: DiffusersDenoiser,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    labels: Tensor | None,
    weights: Tensor,
) -> Tensor:
    """Weighted squared error of each image, averaged over its values.

    Args:
        denoiser: The model.
        z: Clean states `(N, …)`.
        noise: Standard normal noise of the same shape.
        t: Timesteps `(N,)`.
        labels: Class labels `(N,)`; None for a model without classes.
        weights: Weight of each timestep, `(T,)`.

    Returns:
        `(N,)`; the loss of the batch is its mean.
    """
    noised = denoiser.schedule.add_noise(z, noise, t)
    prediction = denoiser.predict(noised, t.to(z.device), labels).float()
    target = denoiser.schedule.training_target(z, noise, t)
    error = F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)
    return weights[t].to(error) * error
