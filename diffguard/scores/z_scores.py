"""Values in standard deviations from the mean of ID images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffguard.errors import UserError


def fit_z_scores(values: Tensor) -> dict[str, Tensor]:
    """Measure the mean and the standard deviation.

    Args:
        values: `(n, …)` of n ID images.

    Returns:
        Tensors for `z_scores`, float64: `mean` and `deviation`, both `(…)`.

    Raises:
        UserError: If there are fewer than two images, or a value is equal or not finite for all.
    """
    if len(values) < 2:
        raise UserError(
            f"a standard deviation needs at least 2 ID training images, got {len(values)}: give "
            "more images"
        )
    mean, deviation = values.double().mean(0), values.double().std(0)
    state = {"mean": mean, "deviation": deviation}
    if not are_z_scores(state, tuple(mean.shape)):
        raise UserError(
            "the diffusion model gives values that are equal or not finite for all ID training "
            "images: give different images, or check the model"
        )
    return state


def are_z_scores(state: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
    """Whether tensors are a result of `fit_z_scores`: names, shapes, dtypes and values.

    Args:
        state: The tensors.
        shape: Shape of the values of an image.
    """
    if set(state) != {"mean", "deviation"}:
        return False
    mean, deviation = state["mean"], state["deviation"]
    return (
        mean.shape == deviation.shape == shape
        and mean.dtype == deviation.dtype == torch.float64
        and bool(mean.isfinite().all())
        and bool((deviation.isfinite() & (deviation > 0)).all())
    )


def z_scores(values: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Standardize values `(N, …)` by the result of `fit_z_scores`."""
    return (values - state["mean"]) / state["deviation"]
