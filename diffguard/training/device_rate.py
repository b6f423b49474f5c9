"""How fast a device computes."""

from __future__ import annotations

import time

import torch


def matrix_product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Peak floating point operations per second of large square matrix products on a device.

    Args:
        device: The device.
        dtype: Dtype of the factors.
        seconds: Duration of the measurement.
    """
    size = 1024 if device.type == "cpu" else 8192
    factor = torch.randn(size, size, device=device).to(dtype)
    for _ in range(3):
        factor @ factor
    wait_for(device)
    end, best = time.perf_counter() + seconds, float("inf")
    # The best of several, because other programs may use the device at times.
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(4):
            factor @ factor
        wait_for(device)
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * size**3 / best


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished all work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
