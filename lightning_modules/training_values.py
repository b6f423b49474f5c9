"""Ranges of the values that shape training, checked before anything is trained.

A mistake in the last stage must not show after hours of the first one. See also `config_check.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffguard.errors import UserError

# Precisions that hold the weights themselves in less than 32 bits.
_HALF = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _share(value: float) -> bool:
    return 0 <= value < 1


# Name of a value -> whether it is allowed, and what is.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_positive, "positive"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
    "betas": (
        lambda values: len(values) == 2 and all(map(_share, values)),
        "two numbers in [0, 1)",
    ),
    "optimizer": (lambda name: name in ("adamw", "sgd"), "adamw or sgd"),
    "schedule": (
        lambda name: name in ("one_cycle", "cosine", "constant"),
        "one_cycle, cosine or constant",
    ),
    "warmup": (_share, "a share of the steps in [0, 1)"),
    "seed": (lambda value: value >= 0, "at least 0"),
    "label_smoothing": (_share, "in [0, 1)"),
    "ema_decay": (_share, "in [0, 1)"),
    "label_dropout": (_share, "a share in [0, 1)"),
    "loss_weighting": (lambda name: name in ("none", "min_snr"), "none or min_snr"),
    "min_snr_gamma": (_positive, "positive"),
    "mean": (
        lambda values: values is None or all(map(math.isfinite, values)),
        "finite numbers",
    ),
    "std": (
        lambda values: values is None or all(map(_positive, values)),
        "positive numbers",
    ),
}


def check_values(section: str, values: Mapping[str, Any]) -> None:
    """Check values of a section that have a range.

    Args:
        section: Name of the section, for the message.
        values: Name -> value; names without a range are passed over.

    Raises:
        UserError: For the first value outside its range.
    """
    for name, value in values.items():
        allowed, expected = _RULES.get(name, (None, ""))
        if allowed is not None and not allowed(value):
            raise UserError(f"{section}.{name} must be {expected}, got {value!r}")


def check_precision(stage: str, precision: str) -> None:
    """Raise `UserError` for a precision in which weights cannot be trained."""
    if precision in _HALF:
        key = "trainer.precision" if stage == "noisy_classifier" else f"{stage}.precision"
        raise UserError(
            f"the {stage} cannot be trained in {precision}: small steps of weights in half "
            f"precision are rounded away; set {key} to bf16-mixed or 16-mixed"
        )


def check_accumulation(section: str, batches: float, accumulated: int) -> None:
    """Raise `UserError` if an epoch is too short for one full step of the optimizer."""
    if accumulated > batches:
        raise UserError(
            f"trainer.accumulate_grad_batches is {accumulated}, but an epoch of the {section} has "
            f"{batches:g} batches: accumulate fewer, or set a smaller batch size"
        )
