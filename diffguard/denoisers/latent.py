"""The adapter for latent diffusion models of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from diffguard.failures import failure_report
from diffguard.images import convert_channels, resize_to, to_image_range, to_model_range


class LatentDenoiser(DiffusersDenoiser):
    """A diffusion model on the latents of an autoencoder; follows the `Denoiser` protocol.

    Encoding is deterministic: the mode of a variational autoencoder, or the unquantized latent of
    a VQ one. Decoding quantizes if the autoencoder does.

    Args:
        network: `UNet2DConditionModel` (labels as class embeddings, or with `context`),
            `UNet2DModel` or `DiTTransformer2DModel`.
        autoencoder: `AutoencoderKL` or `VQModel`.
        schedule: The noise levels the network was trained on.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        num_classes: Number of classes; None for an unconditional model.
        null_class: Label that means "no label"; None if the model has none.
        context: The cross-attention context of each label; None passes labels to the network.
        scale_factor: Factor from the autoencoder's latents to the network's; defaults to the one
            in the autoencoder's config.
        antialias: Whether shrinking applies a low-pass filter.
        slice_size: Images per call of the autoencoder, which limits its memory.
        spec: What builds the model again; None if it is unknown.

    Raises:
        UserError: If autoencoder and network have different latents, or the network has
            cross-attention and no `context` is given, or one of another width.
    """

    # States are latents, whose values have no fixed range.
    has_latents = True

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module,
        schedule: NoiseSchedule,
        image_size: int,
        image_channels: int = 3,
        num_classes: int | None = None,
        null_class: int | None = None,
        context: ClassContext | None = None,
        scale_factor: float | None = None,
        antialias: bool = DiffusionSpec.antialias,
        slice_size: int = DiffusionSpec.slice_size,
        spec: DiffusionSpec | None = None,
    ) -> None:
        super().__init__(
            network, schedule, image_size, image_channels, num_classes, null_class, antialias, spec
        )
        self.autoencoder = autoencoder
        self.context = context
        self.slice_size = slice_size
        config: Any = autoencoder.config
        latent = config.get("vq_embed_dim") or config["latent_channels"]
        if latent != self.channels:
            raise UserError(
                f"the autoencoder has {latent} latent channels and the diffusion model takes "
                f"{self.channels}: take the autoencoder that the model was trained with"
            )
        if slice_size < 1:
            raise UserError(f"diffusion.slice_size must be at least 1, got {slice_size}")
        network_config: Any = network.config
        self.is_conditional_unet = "cross_attention_dim" in network_config
        self._check_context(network_config)
        self.pixel_channels: int = config["in_channels"]
        self.pixel_size = self.state_size * 2 ** (len(config["block_out_channels"]) - 1)
        self.preview_size = self.pixel_size
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

    def parts(self) -> dict[str, nn.Module]:
        """`network`, `autoencoder` and, with cross-attention, `context`."""
        parts = {**super().parts(), "autoencoder": self.autoencoder}
        return parts if self.context is None else {**parts, "context": self.context}

    def cast(self, dtype: torch.dtype) -> None:
        """See `DiffusersDenoiser.cast`; an autoencoder that overflows in float16 is unchanged."""
        config: Any = self.autoencoder.config
        for part in self.parts().values():
            if not (
                dtype == torch.float16 and part is self.autoencoder and config.get("force_upcast")
            ):
                part.to(dtype)

    def freeze_first_stage(self) -> None:
        """Freeze the parts that are not trained: the autoencoder, and encoded prompts.

        A context of one token is an embedding of the labels, which is trained.
        """
        self.autoencoder.requires_grad_(requires_grad=False)
        if self.context is not None and self.context.table.shape[1] > 1:
            self.context.requires_grad_(requires_grad=False)

    def _call(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        if self.context is not None:
            return self.network(x, t, encoder_hidden_states=self.context(y)).sample
        if self.is_conditional_unet:
            return self.network(x, t, encoder_hidden_states=None, class_labels=y).sample
        return self.network(x, timestep=t, class_labels=y).sample

    def _encode(self, x: Tensor) -> Tensor:
        autoencoder: Any = self.autoencoder
        with self._range_kept(x), failure_report(*self._failure(x)):
            encoded = autoencoder.encode(x.to(autoencoder.dtype))
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mode().to(x)
        return encoded.latents.to(x)

    def _decode(self, z: Tensor) -> Tensor:
        z = z / self.scale_factor + self.shift
        autoencoder: Any = self.autoencoder
        inner = z.to(autoencoder.dtype)
        with self._range_kept(z), failure_report(*self._failure(z)):
            parts = [autoencoder.decode(part).sample for part in inner.split(self.slice_size)]
        return torch.cat(parts).to(z)

    def _failure(self, x: Tensor) -> tuple[str, str]:
        """The error line for a failure of the autoencoder."""
        return f"the autoencoder fails on {tuple(x.shape[1:])}", "check its config"

    def _range_kept(self, x: Tensor) -> AbstractContextManager[Any]:
        """No autocast to float16 for an autoencoder that overflows in it."""
        config: Any = self.autoencoder.config
        kind = x.device.type
        overflows = config.get("force_upcast") and torch.amp.is_autocast_available(kind)
        if (
            overflows
            and torch.is_autocast_enabled(kind)
            and torch.get_autocast_dtype(kind) == torch.float16
        ):
            return torch.autocast(kind, enabled=False)
        return nullcontext()

    def _check_context(self, config: Mapping[str, Any]) -> None:
        if not self.is_conditional_unet:
            return
        attends = _has_cross_attention(config)
        if attends and self.context is None:
            raise UserError(
                "the diffusion model has cross-attention, but there is no context for its labels: "
                "expected a text encoder beside it (Stable Diffusion) or a class_context"
            )
        if self.context is None:
            return
        width, expected = self.context.table.shape[-1], config["cross_attention_dim"]
        if not attends or width != expected:
            raise UserError(
                f"the context of the labels has {width} channels and cross-attention takes "
                f"{expected if attends else 'none'}: the parts of the model do not fit together"
            )


def _has_cross_attention(config: Mapping[str, Any]) -> bool:
    blocks = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    return any("CrossAttn" in str(block) for block in blocks)
