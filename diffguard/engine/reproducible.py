"""Reproducible arithmetic on CPU and GPU, regardless of the program's torch settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reproducible() -> Iterator[None]:
    """Deterministic convolutions in full precision without a graph; restores the settings at exit.

    cuDNN may otherwise sum the gradient of a convolution in another order each time, choose its
    kernels by timing, and round float32 to TF32's 10 bits. Autocast still
    works inside.
    """
    cudnn: Any = torch.backends.cudnn
    modes = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    restore = _without_tf32()
    try:
        with torch.no_grad():
            yield
    finally:
        restore()
        cudnn.deterministic, cudnn.benchmark = modes


def _without_tf32() -> Callable[[], None]:
    """Switch TF32 off and return a function that restores the settings."""
    cudnn: Any = torch.backends.cudnn
    try:
        convolution, matmul = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        # torch refuses to read these settings if the program uses the newer ones.
        return _without_tf32_by_operator()
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")

    def restore() -> None:
        cudnn.allow_tf32 = convolution
        torch.set_float32_matmul_precision(matmul)

    return restore


def _without_tf32_by_operator() -> Callable[[], None]:
    cudnn: Any = torch.backends.cudnn
    operators = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [operator.fp32_precision for operator in operators]
    for operator in operators:
        operator.fp32_precision = "ieee"

    def restore() -> None:
        for operator, precision in zip(operators, before, strict=True):
            operator.fp32_precision = precision

    return restore
