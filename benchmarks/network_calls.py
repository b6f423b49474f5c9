"""The network calls of a run: noted as they come, and made once more with nothing in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.detector import Detector
from diffguard.perceptual import DISTS, LPIPS

# Network, shape of its first input, whether a gradient was taken.
Call = tuple[str, tuple[int, ...], bool]


def networks_of(detector: Detector) -> dict[str, nn.Module]:
    """The networks that scoring calls: denoiser, classifier, and VGG where a measure needs it."""
    found = {"denoiser": detector.denoiser.network, "classifier": detector.classifier.network}
    perceptual = [m for m in detector.modules() if isinstance(m, LPIPS | DISTS)]
    return found | {f"perceptual{number}": m for number, m in enumerate(perceptual)}


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class NetworkCalls:
    """Notes calls of networks.

    Args:
        networks: Name -> network.

    Attributes:
        sequence: The calls in their order.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks = dict(networks)
        self.sequence: list[Call] = []
        self._inputs: dict[Call, tuple[Any, Any]] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note every call in this block."""
        handles = [
            network.register_forward_pre_hook(self._note(name), with_kwargs=True)
            for name, network in self.networks.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str) -> Any:
        def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
            first = args[0]
            call = (name, tuple(first.shape), torch.is_grad_enabled() and first.requires_grad)
            self.sequence.append(call)
            if call not in self._inputs:
                # Outside of inference mode, so that a gradient can be taken again.
                with torch.inference_mode(False):
                    self._inputs[call] = (
                        [_copy(value) for value in args],
                        {key: _copy(value) for key, value in kwargs.items()},
                    )

        return note

    def rows(self, name: str) -> int:
        """Rows that a network was given in all."""
        return sum(shape[0] for network, shape, _ in self.sequence if network == name)

    def bare_seconds(self) -> float:
        """Make the same calls in the same shapes and order, and nothing else."""
        synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            for call in self.sequence:
                self._repeat(call)
        synchronize()
        return time.perf_counter() - began

    def _repeat(self, call: Call) -> None:
        network = self.networks[call[0]]
        args, kwargs = self._inputs[call]
        if not call[2]:
            network(*args, **kwargs)
            return
        with torch.inference_mode(False), torch.enable_grad():
            leaf = args[0].detach().requires_grad_()
            torch.autograd.grad(network(leaf, *args[1:], **kwargs).sum(), leaf)


def seconds_per_row(network: nn.Module, inputs: Any, size: int, seconds: float = 1.0) -> float:
    """Median time of a bare call without gradient, per row.

    Args:
        network: The network.
        inputs: Batch size -> positional and keyword arguments.
        size: Batch size.
        seconds: Time to spend.
    """
    args, kwargs = inputs(size)
    times: list[float] = []
    with torch.inference_mode():
        network(*args, **kwargs)
        while sum(times) < seconds or len(times) < 3:
            synchronize()
            began = time.perf_counter()
            network(*args, **kwargs)
            synchronize()
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] / size


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
