"""Diffusion models in pixel space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.spec import DiffusionSpec, Fit
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from diffguard.images import (
    convert_channels,
    resize_mask,
    resize_to,
    to_image_range,
    to_model_range,
)


class PixelDenoiser(DiffusersDenoiser):
    """A pixel-space diffusers model: `UNet2DModel` or `DiTTransformer2DModel`.

    Args:
        network: See `DiffusersDenoiser`, as for the other arguments not named here.
        schedule: See `DiffusersDenoiser`.
        image_size: See `DiffusersDenoiser`.
        image_channels: See `DiffusersDenoiser`.
        num_classes: See `DiffusersDenoiser`.
        null_class: See `DiffusersDenoiser`.
        fit: How images are brought to the network's size: `resize` (bilinear) or `pad` (with
            black).
        antialias: See `DiffusersDenoiser`.
        patch: Side p of the squares of pixels that become one position of a state. A state has p²
            times the channels of an image and 1/p of its side, so a pass costs about 1/p².
        spec: See `DiffusersDenoiser`.

    Attributes:
        pixel_channels: Channels of the images that the network was trained on, 1 or 3.
        pixel_size: Side of these images.
        preview_size: Side of the images of `preview`.

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
        fit: Fit = DiffusionSpec.fit,
        antialias: bool = DiffusionSpec.antialias,
        patch: int = DiffusionSpec.patch,
        spec: DiffusionSpec | None = None,
    ) -> None:
        super().__init__(
            network, schedule, image_size, image_channels, num_classes, null_class, antialias, spec
        )
        self.fit, self.patch = fit, patch
        if self.channels not in (patch**2, 3 * patch**2):
            raise UserError(
                f"the diffusion model takes {self.channels} channels, which is not a gray or RGB "
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
        """States `(N, p²C, s, s)` to the size of the images, without a change of range."""
        x = self._to_pixels(z)
        if self.fit == "pad":
            return F.pad(x, tuple(-p for p in self._padding()))
        return resize_to(x, (self.image_size, self.image_size), antialias=self.antialias)

    def decode(self, z: Tensor) -> Tensor:
        """States to images in [0, 1]; values outside the range are clamped."""
        images = to_image_range(self.to_working_size(z))
        return convert_channels(images, self.image_channels)

    def preview(self, z: Tensor) -> Tensor:
        """States as images at the network's size, without padding, not clamped."""
        x = self.to_working_size(z) if self.fit == "pad" else self._to_pixels(z)
        return (x + 1.0) / 2.0

    def place_mask(self, mask: Tensor) -> Tensor:
        """Bring a mask over the images to the states' positions.

        It is resized (nearest neighbor) or padded like the images; a position with several pixels
        is in the mask if any of them is.
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
