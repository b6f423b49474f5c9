"""The network calls of a run: recorded, and repeated without the rest of the program.

On a CPU, each call is repeated immediately, so that other load on the machine slows both equally;
the time of the repetition is subtracted. On a GPU this would interrupt the queue of kernels, so the
whole sequence is repeated after the run.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.detector import Detector
from diffguard.scores.perceptual import DISTS, LPIPS

# Network, shape of its first input, whether a gradient was computed.
Call = tuple[str, tuple[int, ...], bool]


def networks_of(detector: Detector) -> dict[str, nn.Module]:
    """The networks of a detector: denoiser, classifier, and VGG if a distance needs it."""
    networks = {"denoiser": detector.denoiser.network, "classifier": detector.classifier.network}
    perceptual = [m for m in detector.modules() if isinstance(m, LPIPS | DISTS)]
    return networks | {f"perceptual{number}": m for number, m in enumerate(perceptual)}


def synchronize() -> None:
    """Wait until a GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class NetworkCalls:
    """Records calls of networks.

    Args:
        networks: Name -> network.
        paired: Whether to repeat each call immediately.

    Attributes:
        sequence: The calls in order.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, paired: bool = False) -> None:
        self.networks = dict(networks)
        # Copies, because hooks that read features must not see the repeated calls.
        self._twins = copy.deepcopy(self.networks) if paired else self.networks
        self.paired = paired
        self._spent: defaultdict[Call, list[float]] = defaultdict(list)
        self._again = False
        self.sequence: list[Call] = []
        self._inputs: dict[Call, tuple[Any, Any]] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record every call in this block."""
        handles = []
        for name, network in self.networks.items():
            note = self._note(name)
            handles.append(network.register_forward_pre_hook(note, with_kwargs=True))
            if self.paired:
                handles.append(network.register_forward_hook(self._make_again))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str) -> Any:
        def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._again:
                return
            first = args[0]
            call = (name, tuple(first.shape), torch.is_grad_enabled() and first.requires_grad)
            self.sequence.append(call)
            if call not in self._inputs:
                # Outside inference mode, so that the gradient can be computed again.
                with torch.inference_mode(False):
                    self._inputs[call] = (
                        [_copy(value) for value in args],
                        {key: _copy(value) for key, value in kwargs.items()},
                    )

        return note

    def _make_again(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self._again:
            return
        self._again = True
        call, began = self.sequence[-1], time.perf_counter()
        self._repeat(call)
        self._spent[call].append(time.perf_counter() - began)
        self._again = False

    @property
    def paired_seconds(self) -> float:
        """Total time of the immediate repetitions."""
        return sum(map(sum, self._spent.values()))

    def paired_seconds_per_row(self, network: str, size: int) -> float:
        """Mean time per row of the immediate repetitions of a network's calls of `size` rows."""
        times = [
            seconds
            for (name, shape, _), spent in self._spent.items()
            if (name, shape[0]) == (network, size)
            for seconds in spent
        ]
        return sum(times) / len(times) / size

    def bare_seconds(self) -> float:
        """Time of the same calls, with the same shapes and order, and nothing else."""
        synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            for call in self.sequence:
                self._repeat(call)
        synchronize()
        return time.perf_counter() - began

    def _repeat(self, call: Call) -> None:
        network = self._twins[call[0]]
        args, kwargs = self._inputs[call]
        if not call[2]:
            network(*args, **kwargs)
            return
        with torch.inference_mode(False), torch.enable_grad():
            leaf = args[0].detach().requires_grad_()
            torch.autograd.grad(network(leaf, *args[1:], **kwargs).sum(), leaf)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
