"""The interface of a diffusion model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model, as the method uses it.

    Attributes:
        num_classes: Number of classes K, labeled 0 … K-1; None for an unconditional model.
        null_class: The label that means "no label", at least K; None if the model has none.
        schedule: The noise levels the model was trained on.
    """

    num_classes: int | None
    null_class: int | None
    schedule: NoiseSchedule

    def encode(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` in [0, 1] to clean states `(N, …)`."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Clean states `(N, …)` to images `(N, C, H, W)` in [0, 1], the size of the input."""
        ...

    def preview(self, z: Tensor) -> Tensor:
        """States at any noise level as images `(N, C, h, w)`, [0, 1] for clean ones, unclamped.

        Early stop compares these; padding around the image is left out.
        """
        ...

    def place_mask(self, mask: Tensor) -> Tensor:
        """A mask `(N, H, W)` over the images as one over the states, `(N, h, w)` bool."""
        ...

    def predict_noise(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Predict the noise of states.

        Args:
            z_t: `(N, …)` states.
            t: `(N,)` int64 original training timesteps, 0-based.
            y: `(N,)` int64 labels, `null_class` for none; never -1. None for a model without
                classes.

        Returns:
            `(N, …)` ε.
        """
        ...


def check_null_class(num_classes: int | None, null_class: int | None) -> None:
    """Refuse a null class that is also the label of a class.

    Guidance toward that class would compare "no label" with itself.

    Args:
        num_classes: Number of classes; None for an unconditional model.
        null_class: The label that means "no label"; None if there is none.

    Raises:
        UserError: If the null class is below `num_classes`.
    """
    if num_classes is not None and null_class is not None and null_class < num_classes:
        raise UserError(
            f"the null class {null_class} of the diffusion model must not be one of its labels 0 "
            f"to {num_classes - 1}: reorder its class embeddings so that the null class is "
            f"{num_classes}"
        )
