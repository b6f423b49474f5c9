"""The Denoiser protocol, and the adapter for pixel-space models of diffusers.

A denoiser turns images into the states that a diffusion model works on and back, and predicts the
noise of a state. Everything else of the method is the same for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.diffusion.guidance import resize_mask
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from diffguard.images import convert_channels, resize_to, to_image_range, to_model_range


@runtime_checkable
class Denoiser(Protocol):
    """What the method needs of a diffusion model.

    Attributes:
        num_classes: Number of classes the model knows, or None for an unconditional model.
        null_class: The label that means "no label", or None where there is none.
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


class DiffusersDenoiser(nn.Module):
    """What the adapters for models of diffusers share.

    ε, v and x_0 prediction are converted to ε; a learned variance in the second half of the
    output channels is left out, as DDIM does. States keep their dtype (float32 in the samplers)
    whatever the weights have.

    Args:
        network: The diffusers model.
        schedule: The noise levels it was trained on.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        num_classes: Number of classes; None for an unconditional model.
        null_class: Label that means "no label"; None where the model has none.
        antialias: Whether resizing low-passes when it shrinks; the authors' program does not.

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
    ) -> None:
        super().__init__()
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
        """Bring a mask `(N, H, W)` over the images to the states' size (nearest neighbour)."""
        return resize_mask(mask, (self.state_size, self.state_size))

    def predict(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """What the network was trained to predict (ε, v or x_0), `(N, …)` in the dtype of `z_t`."""
        dtype = next(self.network.parameters()).dtype
        return self._call(z_t.to(dtype), t, y)[:, : self.channels].to(z_t)

    def predict_noise(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Predict ε; see `Denoiser.predict_noise`."""
        return self.schedule.to_noise(self.predict(z_t, t, y), z_t, t)

    def parts(self) -> dict[str, nn.Module]:
        """The modules that hold weights, by name: `network`, and what else the family has."""
        return {"network": self.network}

    def count_weights(self) -> int:
        """Number of weights of the model with all its parts."""
        return sum(p.numel() for part in self.parts().values() for p in part.parameters())

    def cast(self, dtype: torch.dtype) -> None:
        """Bring the weights to a floating dtype, such as bfloat16, which halves their memory."""
        for part in self.parts().values():
            part.to(dtype)

    def _call(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return self.network(x, t, class_labels=y).sample


class PixelDenoiser(DiffusersDenoiser):
    """A pixel-space diffusers model: `UNet2DModel` or `DiTTransformer2DModel`.

    Args:
        network: See `DiffusersDenoiser`, as for the other arguments not named here.
        schedule: See `DiffusersDenoiser`.
        image_size: See `DiffusersDenoiser`.
        image_channels: See `DiffusersDenoiser`.
        num_classes: See `DiffusersDenoiser`.
        null_class: See `DiffusersDenoiser`.
        fit: How images of another size reach the network's: `resize` (bilinear) or `pad` (black
            all around).
        antialias: See `DiffusersDenoiser`.
        patch: Side p of the squares of pixels that one position of a state holds: a state has p²
            times the channels of an image and 1/p of its side, so that a pass costs about 1/p².

    Attributes:
        pixel_channels: Channels of the images that the network was trained on, 1 or 3.
        pixel_size: Side of these images.
        preview_size: Side of what `preview` gives.

    Raises:
        UserError: For images that cannot be padded, or a network whose channels do not fit `patch`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        image_size: int,
        image_channels: int = 3,
        num_classes: int | None = None,
        null_class: int | None = None,
        fit: Literal["resize", "pad"] = "resize",
        antialias: bool = True,
        patch: int = 1,
    ) -> None:
        super().__init__(
            network, schedule, image_size, image_channels, num_classes, null_class, antialias
        )
        self.fit, self.patch = fit, patch
        if self.channels not in (patch**2, 3 * patch**2):
            raise UserError(
                f"the diffusion model takes {self.channels} channels, which is no grey or RGB "
                f"image in patches of {patch}×{patch}: expected {patch**2} or {3 * patch**2} "
                "(patch is set in diffusion.patch, or in diffguard.json of a trained model)"
            )
        self.pixel_channels = self.channels // patch**2
        self.pixel_size = self.state_size * patch
        self.preview_size = image_size if fit == "pad" else self.pixel_size
        if fit == "pad" and image_size > self.pixel_size:
            raise UserError(
                f"images of {image_size} pixels cannot be padded to the diffusion model's "
                f"{self.pixel_size}: set diffusion.fit to resize"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to states `(N, p²C, s, s)` in [-1, 1]."""
        x = to_model_range(convert_channels(images, self.pixel_channels))
        if self.fit == "pad":
            x = F.pad(x, self._padding(), value=-1.0)
        else:
            x = resize_to(x, (self.pixel_size, self.pixel_size), antialias=self.antialias)
        return x if self.patch == 1 else F.pixel_unshuffle(x, self.patch)

    def to_working_size(self, z: Tensor) -> Tensor:
        """States `(N, p²C, s, s)` to the size of the images, range as it is."""
        x = self._to_pixels(z)
        if self.fit == "pad":
            return F.pad(x, tuple(-p for p in self._padding()))
        return resize_to(x, (self.image_size, self.image_size), antialias=self.antialias)

    def decode(self, z: Tensor) -> Tensor:
        """States to images in [0, 1]; what a model leaves outside the range is clamped."""
        images = to_image_range(self.to_working_size(z))
        return convert_channels(images, self.image_channels)

    def preview(self, z: Tensor) -> Tensor:
        """States as images at the network's size, without padding, not clamped."""
        x = self.to_working_size(z) if self.fit == "pad" else self._to_pixels(z)
        return (x + 1.0) / 2.0

    def place_mask(self, mask: Tensor) -> Tensor:
        """Bring a mask over the images to the states' positions.

        It is resized (nearest neighbour) or padded as images are; a position that holds several
        pixels is in the mask where any of them is.
        """
        if self.fit == "pad":
            mask = F.pad(mask, self._padding(), value=False)
        else:
            mask = resize_mask(mask, (self.pixel_size, self.pixel_size))
        if self.patch == 1:
            return mask
        return F.max_pool2d(mask.float(), self.patch) > 0

    def _to_pixels(self, z: Tensor) -> Tensor:
        return z if self.patch == 1 else F.pixel_shuffle(z, self.patch)

    def _padding(self) -> tuple[int, int, int, int]:
        before = (self.pixel_size - self.image_size) // 2
        after = self.pixel_size - self.image_size - before
        return before, after, before, after
