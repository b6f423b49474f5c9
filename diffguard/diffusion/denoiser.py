"""The interface of a diffusion model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from diffguard.diffusion.schedule import NoiseSchedule


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model, as the method uses it.

    Attributes:
        num_classes: Number of classes the model knows, or None for an unconditional model.
        null_class: The label that means "no label", or None if the model has none.
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
