"""The speed of the diffusion model's calls."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser

# Calls that are measured, after a first one that chooses kernels or compiles.
_CALLS = 3


@torch.inference_mode()
def seconds_per_call(denoiser: Denoiser, image: Tensor, batch_size: int) -> float:
    """Wall seconds of a call, the shortest of three.

    Args:
        denoiser: The diffusion model, in the precision of its use.
        image: `(1, C, H, W)` in [0, 1], on its device.
        batch_size: Rows of the call.
    """
    state = denoiser.encode(image)
    states = state.repeat(batch_size, *[1] * (state.dim() - 1))
    t = torch.full((batch_size,), len(denoiser.schedule) // 2, device=image.device)
    y = None if denoiser.num_classes is None else torch.zeros_like(t)
    seconds = []
    for _ in range(1 + _CALLS):
        _finish(image.device)
        began = time.perf_counter()
        denoiser.predict_noise(states, t, y)
        _finish(image.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _finish(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
