"""Faster network calls with the same results up to rounding: memory format, compilation.

A detector makes every call of its diffusion model in one shape, so one compiled program serves all.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import nn

from diffguard.errors import UserError

CompileMode = bool | Literal["reduce-overhead", "max-autotune"]


def accelerate(
    network: nn.Module, *, compile: CompileMode = False, channels_last: bool = False
) -> None:
    """Prepare a network for many calls of one shape, in place; the values of its weights stay.

    A network that is already compiled stays as it is.

    Args:
        network: The network, on any device.
        compile: Compile it with `torch.compile` at the first call: True for the default mode;
            `reduce-overhead` adds CUDA graphs, which help if a GPU waits for Python;
            `max-autotune` also benchmarks kernels.
        channels_last: Convert its weights to channels-last memory format.
    """
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile and network._compiled_call_impl is None:
        _compile(network, None if compile is True else compile)


def set_compilation(network: nn.Module, mode: CompileMode) -> None:
    """Compile a network, or undo its compilation; see `accelerate`."""
    if not mode:
        network._compiled_call_impl = None
    accelerate(network, compile=mode)


def _compile(network: nn.Module, mode: str | None) -> None:
    if network.forward.__module__.startswith("torch."):
        # Older versions of torch compile no frame of their own files, such as an `nn.Sequential`'s.
        call = network._call_impl
        network._compiled_call_impl = torch.compile(
            lambda *args, **kwargs: call(*args, **kwargs), mode=mode, dynamic=False
        )
    else:
        network.compile(mode=mode, dynamic=False)


@cache
def check_compiler(device: torch.device) -> None:
    """Compile a trivial function, so that a missing compiler is reported before the first image.

    Raises:
        UserError: If torch cannot compile for this device on this machine.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:
        # Compilation is optional, so any failure of the compiler becomes one line.
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(
            f"detector.compile does not work on this machine ({reason}): install what "
            "torch.compile needs (a C++ compiler for a CPU, Triton for a GPU), or leave it out"
        ) from error
