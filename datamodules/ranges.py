"""Ranges of the numbers in the `data` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffguard.errors import UserError

# Larger values are typing errors and would exhaust memory or processes.
_RANGES = {
    "image_size": (1, 4096),
    "batch_size": (1, 65_536),
    "train_batch_size": (1, 65_536),
    "limit": (1, None),
    "num_workers": (0, 256),
    "seed": (0, None),
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Check the numbers of the `data` section; values that are not numbers are skipped.

    Args:
        values: Key -> value, for all keys with a range, and `channels`.

    Raises:
        UserError: If a number is out of range.
    """
    for key, (minimum, maximum) in _RANGES.items():
        value = values[key]
        if isinstance(value, int) and value < minimum:
            raise UserError(f"data.{key} must be at least {minimum}, got {value:,}")
        if isinstance(value, int) and maximum is not None and value > maximum:
            raise UserError(f"data.{key} must be at most {maximum:,}, got {value:,}")
    if values["channels"] not in (1, 3):
        raise UserError(f"data.channels must be 1 (grayscale) or 3 (RGB), got {values['channels']}")
