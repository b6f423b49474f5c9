"""A stand-in for a GPU: a device whose tensors do not mix with CPU tensors.

Inside `fake_gpu()`, tensors on the device `meta` have data in main memory. What a GPU refuses (an
operation on tensors of both devices, a view as a NumPy array) is also refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
# Operations on both devices: copies, and CPU indices into tensors on another device.
_MOVES = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Remote(Tensor):
    """A tensor on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        tensor.inner = inner
        return tensor

    def tolist(self) -> Any:
        """Copy the values, as from a GPU."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _MOVES:
            _check_devices(func, args, kwargs)
        device = torch.device(kwargs.get("device") or DEVICE)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        plain = tree_map_only(Remote, lambda tensor: tensor.inner, (args, kwargs))
        out = func(*plain[0], **plain[1])
        if device != DEVICE or (func is aten.copy_.default and not isinstance(args[0], Remote)):
            return out
        wrapped = tree_map_only(Tensor, Remote, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _check_devices(func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
    operands = args[:1] + args[2:] if func in _INDEXED else args
    tensors = [leaf for leaf in tree_leaves((operands, kwargs)) if isinstance(leaf, Tensor)]
    here = [t for t in tensors if not isinstance(t, Remote) and t.ndim]
    if here and len(here) < len(tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    if func in _INDEXED and not isinstance(args[0], Remote):
        raise RuntimeError(f"{func}: indices on the device into a tensor on the CPU")


class _Placing(TorchDispatchMode):
    """Gives new tensors on the device real data."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        remote = any(isinstance(leaf, Remote) for leaf in tree_leaves((args, kwargs)))
        if remote or torch.device(kwargs.get("device") or "cpu") != DEVICE:
            return func(*args, **kwargs)
        return tree_map_only(Tensor, Remote, func(*args, **{**kwargs, "device": "cpu"}))


class _FromData(TorchFunctionMode):
    """Moves tensors made from Python numbers from the CPU to the device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is Tensor.new_tensor:
            return torch.tensor(*args[1:], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0])
        return func(*args, **kwargs)


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Let the device hold data, and return it."""
    autocast = torch.autocast

    def without_meta(kind: str, **options: Any) -> Any:
        return autocast("cpu" if kind == DEVICE.type else kind, **options)

    with _Placing(), _FromData(), mock.patch.object(torch, "autocast", without_meta):
        yield DEVICE
