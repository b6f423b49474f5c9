"""The machine's influence on the last bits of a score: device, threads and libraries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

# Libraries that read an image or compute with it.
_LIBRARIES = (
    "torch", "torchvision", "diffusers", "timm", "pytorch-ood", "scikit-learn", "torchmetrics",
    "numpy", "pillow",
)  # fmt: skip


def describe_machine(device: torch.device, threads: int) -> dict[str, str | int]:
    """Describe what affects the last bits of a score when everything else is equal.

    Args:
        device: The device of the networks.
        threads: CPU threads per process.

    Returns:
        The kind of device, the threads, and a version for each library.
    """
    return {"device": _kind(device), "threads": threads, **installed_versions(_LIBRARIES)}


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the given packages; those that are not installed are omitted."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _kind(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return device.type
