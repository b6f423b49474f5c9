"""The precisions of training and scoring."""

from __future__ import annotations

import torch

from diffguard.errors import UserError

# The precision of calibration and scoring is measured; training then has the default.
AUTO = "auto"
FULL_PRECISION = "32-true"
_NAMES = (FULL_PRECISION, "bf16-mixed", "16-mixed", "bf16-true", "16-true")
# Lightning's short names.
_SHORT_NAMES = {"32": FULL_PRECISION, "bf16": "bf16-mixed", "16": "16-mixed"}
_DOUBLE = ("64", "64-true")
# Precisions that hold the weights themselves in less than 32 bits.
_HALF = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")


def check_name(precision: str) -> None:
    """Raise `UserError` for an unknown precision."""
    if precision not in (*_NAMES, *_SHORT_NAMES, AUTO):
        raise UserError(f"precision must be one of {', '.join(_NAMES)}, {AUTO}, got {precision!r}")


def full_name(precision: str) -> str:
    """The name of a precision that Lightning also knows by a short name."""
    return _SHORT_NAMES.get(precision, precision)


def check_device(precision: str, device: torch.device) -> None:
    """Raise `UserError` for a precision that a device lacks."""
    if precision in ("16-mixed", "16") and device.type == "cpu":
        # Lightning would use bf16-mixed instead, and the manifest would name another precision.
        raise UserError(
            f"precision {precision} needs a GPU, and this run is on a CPU: use bf16-mixed or "
            "32-true"
        )


def check_trainable(stage: str, precision: str) -> None:
    """Raise `UserError` for a precision in which weights cannot be trained."""
    if precision in _HALF:
        raise UserError(
            f"the {stage} cannot be trained in {precision}: small steps of weights in half "
            f"precision are rounded away; set {stage}.precision to bf16-mixed or 16-mixed"
        )
    if precision in _DOUBLE:
        raise UserError(
            f"the {stage} cannot be trained in {precision}: it is calibrated in single precision; "
            f"set {stage}.precision to 32-true"
        )


def weight_dtype(precision: str) -> torch.dtype:
    """Dtype of the diffusion model's weights in scoring: half only in a `true` half precision."""
    halves = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
    return halves.get(precision, torch.float32)
