"""Finds the layers of a classifier that DiffGuard and the baselines read.

There are two: the *head*, the last layer, whose input is the features; and the *CAM layer*, whose
output Grad-CAM reads. Both are detected from what a network computes, not from its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffguard.errors import UserError

# Pooling may repeat a single position, so its output carries no spatial information.
_NO_MAPS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# Class, distillation and register tokens come before the patches.
_MOST_PREFIX_TOKENS = 8


def find_head(network: nn.Module, num_classes: int) -> str:
    """The last linear layer, or 1×1 convolution, with an output per class.

    Raises:
        UserError: If there is no such layer.
    """
    heads = [
        name
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and _is_pointwise(module, num_classes))
    ]
    if not heads:
        raise UserError(
            f"no last layer with {num_classes} outputs was found in the classifier: check the "
            "number of classes, or name the layer whose input is the features in feature_layer "
            "(classifier.feature_layer of a config)"
        )
    return heads[-1]


def as_linear(module: nn.Module) -> nn.Linear | None:
    """A head as a linear layer; None for any other module."""
    if isinstance(module, nn.Linear):
        return module
    if not isinstance(module, nn.Conv2d) or not _is_pointwise(module, module.out_channels):
        return None
    weight = module.weight.detach().flatten(1)
    head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_() if module.bias is None else head.bias.copy_(module.bias)
    return head.requires_grad_(requires_grad=False)


def find_cam_layer(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> str:
    """The layer that Grad-CAM reads.

    If the network ends on feature maps, it is the last module that outputs any. If it ends on
    tokens, it is the first norm of the last block: after the block's attention only the class
    token is used, so the patches would have no gradient.

    Args:
        network: The classifier's network.
        shapes: Shapes of the modules' outputs for one image, in the order of computation.

    Raises:
        UserError: If the network has neither maps nor tokens.
    """
    order = list(shapes)
    maps = [n for n in order if _is_map(shapes[n]) and not isinstance(_at(network, n), _NO_MAPS)]
    tokens = [n for n in order if _is_tokens(shapes[n], token_grid(network))]
    if maps and (not tokens or order.index(maps[-1]) > order.index(tokens[-1])):
        return maps[-1]
    blocks = [n.rpartition(".")[0] for n in tokens if _is_norm(_at(network, n))]
    blocks = [name for name in blocks if _is_one_of_many(network, name)]
    if blocks:
        return next(
            n for n in tokens if n.startswith(f"{blocks[-1]}.") and _is_norm(_at(network, n))
        )
    if not tokens:
        raise UserError(
            "no layer with spatial feature maps was found: name one in cam_layer "
            "(classifier.cam_layer of a config)"
        )
    return tokens[-1]


def token_grid(network: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of the patches of timm's vision transformers; None for other networks."""
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return None if grid is None else (int(grid[0]), int(grid[1]))


def to_maps(
    activation: Tensor, prefix_tokens: int | None = None, grid: tuple[int, int] | None = None
) -> Tensor | None:
    """Bring an activation to maps `(N, D, h, w)`; None for a shape without spatial positions.

    Args:
        activation: `(N, D, h, w)`; `(N, h, w, D)` with h = w; or tokens `(N, L, D)`, patch by
            patch in reading order.
        prefix_tokens: Tokens before the patches, which have no position; None counts the tokens
            that the grid does not cover.
        grid: Rows and columns of the patches; None, or one that does not fit, means the largest
            square.
    """
    if activation.ndim == 4:
        _, first, second, third = activation.shape
        channels_last = first == second and second != third
        return activation.permute(0, 3, 1, 2) if channels_last else activation
    if activation.ndim != 3:
        return None
    length = activation.shape[1]
    side = math.isqrt(length - (prefix_tokens or 0))
    for rows, columns in filter(None, (grid, (side, side))):
        prefix = length - rows * columns
        if prefix == prefix_tokens or (prefix_tokens is None and prefix >= 0):
            return activation[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    return None


def _is_pointwise(module: nn.Conv2d, outputs: int) -> bool:
    return module.kernel_size == (1, 1) and module.groups == 1 and module.out_channels == outputs


def _is_map(shape: Sequence[int]) -> bool:
    if len(shape) != 4:
        return False
    return min(shape[2:]) > 1 or (shape[1] == shape[2] > 1)


def _is_tokens(shape: Sequence[int], grid: tuple[int, int] | None) -> bool:
    if len(shape) != 3 or shape[1] < 4:
        return False
    if grid is not None and shape[1] >= math.prod(grid):
        return True
    return shape[1] - math.isqrt(shape[1]) ** 2 <= _MOST_PREFIX_TOKENS


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_one_of_many(network: nn.Module, name: str) -> bool:
    parent = _at(network, name.rpartition(".")[0])
    return bool(name) and isinstance(parent, nn.ModuleList | nn.Sequential)


def _at(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name)
