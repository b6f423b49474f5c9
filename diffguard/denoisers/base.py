"""The base of the adapters for diffusers models.

A denoiser converts images to the states of a diffusion model and back, and predicts the noise of a
state. The rest of the method is the same for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.failures import failure_report
from diffguard.images import resize_mask


class DiffusersDenoiser(nn.Module):
    """Base class of the adapters for diffusers models.

    ε, v and x_0 prediction are converted to ε; a learned variance in the second half of the
    output channels is ignored, as in DDIM. States keep their dtype (float32 in the samplers),
    regardless of the dtype of the weights.

    Args:
        network: The diffusers model.
        schedule: The noise levels it was trained on.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        num_classes: Number of classes; None for an unconditional model.
        null_class: Label that means "no label"; None if the model has none.
        antialias: Whether shrinking applies a low-pass filter; the authors' program does not.
        spec: What builds the model again; None if it is unknown.

    Attributes:
        channels: Channels of a state.
        state_size: Side of a state.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        image_size: int,
        image_channels: int,
        num_classes: int | None,
        null_class: int | None,
        antialias: bool,
        spec: DiffusionSpec | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.schedule = schedule
        self.image_size = image_size
        self.image_channels = image_channels
        self.num_classes = num_classes
        self.null_class = null_class
        self.antialias = antialias
        config: Mapping[str, Any] = network.config  # type: ignore[assignment]
        self.channels: int = config["in_channels"]
        self.state_size: int = config["sample_size"]

    def encode(self, images: Tensor) -> Tensor:
        """Images to clean states; see `Denoiser.encode`."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Clean states to images; see `Denoiser.decode`."""
        raise NotImplementedError

    def preview(self, z: Tensor) -> Tensor:
        """States as images; see `Denoiser.preview`."""
        raise NotImplementedError

    def place_mask(self, mask: Tensor) -> Tensor:
        """Bring a mask `(N, H, W)` over the images to the states' size (nearest neighbor)."""
        return resize_mask(mask, (self.state_size, self.state_size))

    def predict(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The network's prediction (ε, v or x_0), `(N, …)` in the dtype of `z_t`.

        Raises:
            UserError: If the network fails.
        """
        dtype = next(self.network.parameters()).dtype
        with failure_report(
            f"the diffusion model fails on states of {tuple(z_t.shape[1:])}",
            "check its config and the numbers of its classes",
        ):
            return self._call(z_t.to(dtype), t, y)[:, : self.channels].to(z_t)

    def predict_noise(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Predict ε; see `Denoiser.predict_noise`."""
        return self.schedule.to_noise(self.predict(z_t, t, y), z_t, t)

    def parts(self) -> dict[str, nn.Module]:
        """The modules with weights, by name: `network`, and further ones for some families."""
        return {"network": self.network}

    def count_weights(self) -> int:
        """Number of weights of the model with all its parts."""
        return sum(p.numel() for part in self.parts().values() for p in part.parameters())

    def cast(self, dtype: torch.dtype) -> None:
        """Convert the weights to a floating dtype, such as bfloat16, which halves their memory."""
        for part in self.parts().values():
            part.to(dtype)

    def _call(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return self.network(x, t, class_labels=y).sample
