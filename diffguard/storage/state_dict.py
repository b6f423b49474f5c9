"""Loads a state dict into a module after checking it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffguard.errors import UserError
from diffguard.storage.sizes import check_fit


def fill(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly.

    Raises:
        UserError: Naming the first tensors that are missing, left over or of another shape.
    """
    check_fit(network, state, what)
    for name, value in network.state_dict(keep_vars=True).items():
        check_values(name, state[name], value)
    network.load_state_dict(state)


def check_values(name: str, found: Tensor, own: Tensor) -> None:
    """Check that a tensor can be a network's weight.

    Args:
        name: Its name, for error lines.
        found: The tensor; its shape is not checked.
        own: The network's tensor. If it is not a parameter, such as a mask, infinity is allowed.

    Raises:
        UserError: For integers instead of floating-point numbers or the reverse, sparse tensors,
            and values that are not finite.
    """
    if found.is_meta:
        return
    if found.layout != torch.strided or found.is_floating_point() != own.is_floating_point():
        raise UserError(
            f"tensor {name} is {_kind(found)}, expected {_kind(own)}: save the network's "
            "state_dict() as it is after training"
        )
    values = found.to(own.dtype)
    bad = values.isnan() if not isinstance(own, nn.Parameter) else ~values.isfinite()
    if name.endswith("running_var") and bool((values < 0).any()):
        raise UserError(
            f"tensor {name} holds variances below zero: expected trained weights, take another file"
        )
    if bad.any():
        raise UserError(
            f"tensor {name} holds {int(bad.sum())} values that are not finite numbers: expected "
            "trained weights, take a checkpoint from before training diverged"
        )


def _kind(tensor: Tensor) -> str:
    layout = "dense" if tensor.layout == torch.strided else "sparse"
    return f"{layout} {str(tensor.dtype).removeprefix('torch.')}"


def weights_hash(networks: Sequence[nn.Module]) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and values of networks' weights and buffers."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
