"""The noise that an inversion follows, for batches whose samples are at one timestep."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.guidance import classifier_free
from diffguard.errors import UserError
from diffguard.settings.sections import InversionSettings


def null_noise(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """Predict the noise of states without the label.

    Args:
        denoiser: The diffusion model.
        x: `(N, …)` states.
        t: `(N,)` their timesteps.

    Returns:
        `(N, …)`.

    Raises:
        UserError: If the model has classes but no null class.
    """
    null = denoiser.null_class
    if null is None and denoiser.num_classes is not None:
        raise UserError(
            "the depth at which images stop cannot be found without labels, and this diffusion "
            "model has no class that means 'no label': give detector.early_stop.thresholds and "
            "leave out mean_depth"
        )
    return denoiser.predict_noise(x, t, None if null is None else torch.full_like(t, null))


def inversion_noise(
    denoiser: Denoiser, inversion: InversionSettings, x: Tensor, t: Tensor, labels: Tensor
) -> Tensor:
    """Predict the noise of states as an inversion sees it.

    Args:
        denoiser: The diffusion model.
        inversion: Whether the inversion sees the labels.
        x: `(N, …)` states.
        t: `(N,)` their timesteps.
        labels: `(N,)` predicted labels.

    Returns:
        `(N, …)`.

    Raises:
        UserError: If a pass without the label is needed and the model has classes but no null
            class.
    """
    if inversion.condition == "null":
        return null_noise(denoiser, x, t)
    noise = denoiser.predict_noise(x, t, labels)
    if inversion.condition == "label":
        return noise
    return classifier_free(null_noise(denoiser, x, t), noise, inversion.scale)
