"""Builds networks without memory for weights, and compares networks except for their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_PLAIN = (bool, int, float, str, type(None))


class WithoutWeights(TorchFunctionMode):
    """Builds networks whose layers have their weights on the meta device.

    Unlike with `torch.device("meta")`, a constructor may compute with tensors, as torchvision's
    RegNet does to find its widths.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Create uninitialized tensors, as layers do first, on the meta device."""
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def first_difference(first: nn.Module, second: nn.Module) -> str | None:
    """The first difference between two networks, except for the values of their tensors.

    It compares the modules and their classes, names and shapes of parameters and buffers, and
    plain attributes, such as the `transform_input` of torchvision's Inception.

    Returns:
        The name of the first module, tensor or attribute that differs; None if there is none.
    """
    modules, others = dict(first.named_modules()), dict(second.named_modules())
    for name in sorted(modules.keys() ^ others.keys()):
        return name
    for name, module in modules.items():
        other = others[name]
        if type(module) is not type(other):
            return name
        tensors, theirs = _shapes(module), _shapes(other)
        for key in sorted(tensors.keys() | theirs.keys()):
            if tensors.get(key) != theirs.get(key):
                return f"{name}.{key}".lstrip(".")
        for key in sorted(_plain_attributes(module) | _plain_attributes(other)):
            if getattr(module, key, None) != getattr(other, key, None):
                return f"{name}.{key}".lstrip(".")
    return None


def _shapes(module: nn.Module) -> dict[str, Any]:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {key: (tuple(value.shape), value.dtype) for key, value in tensors}


def _plain_attributes(module: nn.Module) -> set[str]:
    return {k for k, v in vars(module).items() if not k.startswith("_") and _is_plain(v)}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
