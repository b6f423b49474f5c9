"""The adapter for latent diffusion models of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.errors import UserError
from diffguard.guidance import resize_mask
from diffguard.images import convert_channels, resize_to, to_image_range, to_model_range
from diffguard.schedule import NoiseSchedule


class LatentDenoiser(nn.Module):
    """A diffusion model on the latents of an autoencoder; follows the `Denoiser` protocol.

    Encoding is deterministic: the mode of a variational autoencoder, the unquantised latent of a
    VQ one. Decoding quantises where the autoencoder does. ε, v and x_0 prediction are converted
    to ε; a learned variance in the second half of the output channels is left out.

    Args:
        network: `UNet2DConditionModel` (labels as class embeddings, or with `class_embedding`
            as context), `UNet2DModel` or `DiTTransformer2DModel`.
        autoencoder: `AutoencoderKL` or `VQModel`.
        schedule: The noise levels the network was trained on.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        num_classes: Number of classes; None for an unconditional model.
        null_class: Label that means "no label"; None where the model has none.
        class_embedding: Table `(labels, D)` whose row is the one-token context of
            cross-attention; None passes labels to the network.
        scale_factor: Factor from the autoencoder's latents to the network's; None is the one in
            the autoencoder's config.
        antialias: Whether resizing low-passes when it shrinks.
        slice_size: Images that pass the autoencoder at once, which bounds its memory.

    Raises:
        UserError: Where autoencoder and network have different latents, or the network has
            cross-attention and no `class_embedding` is given.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module,
        schedule: NoiseSchedule,
        image_size: int,
        image_channels: int = 3,
        num_classes: int | None = None,
        null_class: int | None = None,
        class_embedding: nn.Module | None = None,
        scale_factor: float | None = None,
        antialias: bool = True,
        slice_size: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.autoencoder = autoencoder
        self.class_embedding = class_embedding
        self.schedule = schedule
        self.image_size = image_size
        self.image_channels = image_channels
        self.num_classes = num_classes
        self.null_class = null_class
        self.antialias = antialias
        self.slice_size = slice_size
        config: Any = autoencoder.config
        network_config: Any = network.config
        self.channels: int = network_config["in_channels"]
        self.state_size: int = network_config["sample_size"]
        latent = config.get("vq_embed_dim") or config["latent_channels"]
        if latent != self.channels:
            raise UserError(
                f"the autoencoder has {latent} latent channels and the diffusion model takes "
                f"{self.channels}: take the autoencoder that the model was trained with"
            )
        self.takes_context = "cross_attention_dim" in network_config
        if self.takes_context and class_embedding is None and _has_cross_attention(network_config):
            raise UserError(
                "the diffusion model has cross-attention and there is no table of class "
                "embeddings: give a model with class labels, or one with a class_embedding"
            )
        self.pixel_channels: int = config["in_channels"]
        self.pixel_size = self.state_size * 2 ** (len(config["block_out_channels"]) - 1)
        self.scale_factor: float = (
            config["scaling_factor"] if scale_factor is None else scale_factor
        )
        self.shift: float = config.get("shift_factor") or 0.0

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to latents `(N, C, h, w)`."""
        x = to_model_range(convert_channels(images, self.pixel_channels))
        x = resize_to(x, (self.pixel_size, self.pixel_size), antialias=self.antialias)
        z = torch.cat([self._encode(part) for part in x.split(self.slice_size)])
        return (z - self.shift) * self.scale_factor

    def decode(self, z: Tensor) -> Tensor:
        """Latents to images in [0, 1] at the working size, clamped."""
        x = resize_to(self._decode(z), (self.image_size, self.image_size), antialias=self.antialias)
        return convert_channels(to_image_range(x), self.image_channels)

    def preview(self, z: Tensor) -> Tensor:
        """Latents at any noise level as images at the autoencoder's size, not clamped."""
        return (self._decode(z) + 1.0) / 2.0

    def place_mask(self, mask: Tensor) -> Tensor:
        """Bring a mask `(N, H, W)` over the images to the latents (nearest neighbour)."""
        return resize_mask(mask, (self.state_size, self.state_size))

    def predict_noise(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Predict ε; see `Denoiser.predict_noise`."""
        if self.class_embedding is not None:
            output = self.network(z_t, t, encoder_hidden_states=self.class_embedding(y)[:, None])
        elif self.takes_context:
            output = self.network(z_t, t, encoder_hidden_states=None, class_labels=y)
        else:
            output = self.network(z_t, timestep=t, class_labels=y)
        return self.schedule.to_noise(output.sample[:, : self.channels].to(z_t), z_t, t)

    def _encode(self, x: Tensor) -> Tensor:
        autoencoder: Any = self.autoencoder
        encoded = autoencoder.encode(x)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mode()
        return encoded.latents

    def _decode(self, z: Tensor) -> Tensor:
        z = z / self.scale_factor + self.shift
        autoencoder: Any = self.autoencoder
        parts = [autoencoder.decode(part).sample for part in z.split(self.slice_size)]
        return torch.cat(parts)


def _has_cross_attention(config: Mapping[str, Any]) -> bool:
    blocks = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    return any("CrossAttn" in str(block) for block in blocks)
