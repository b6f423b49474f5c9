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


def check_values(name: str, value: Tensor, expected: Tensor) -> None:
    """Check that a tensor can be a network's weight.

    Args:
        name: Its name, for error lines.
        value: The tensor; its shape is not checked.
        expected: The network's tensor. If it is not a parameter, such as a mask, infinity is
            allowed.

    Raises:
        UserError: For integers instead of floating-point numbers or the reverse, sparse tensors,
            and values that are not finite.
    """
    if value.is_meta:
        return
    if value.layout != torch.strided or value.is_floating_point() != expected.is_floating_point():
        raise UserError(
            f"tensor {name} is {_kind(value)}, expected {_kind(expected)}: save the network's "
            "state_dict() as it is after training"
        )
    values = value.to(expected.dtype)
    bad = values.isnan() if not isinstance(expected, nn.Parameter) else ~values.isfinite()
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
