"""The two variants of guided-diffusion's U-Net that diffusers' class cannot express."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps


class ADMUNet2DModel(UNet2DModel):
    """`UNet2DModel` with a fixed number of heads, or a wider time embedding.

    The published 128×128 model has four attention heads at every level, but `UNet2DModel` fixes
    the channels per head. The 512×512 model's first level is narrower than its sinusoidal
    embedding, but `UNet2DModel` has one width for both. Everything else, including the arguments,
    is that of diffusers' class. The folder that `save_pretrained` writes names this class, so
    that diffusers' class is not loaded instead.

    Args:
        num_heads: Attention heads of every level; None keeps `attention_head_dim`.
        time_embedding_dim: Channels of the time embedding, four times those of the sinusoidal one;
            defaults to four times those of the first level.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels: tuple[int, ...] = (256, 256),
        layers_per_block: int = 2,
        downsample_type: str = "resnet",
        upsample_type: str = "resnet",
        dropout: float = 0.0,
        attention_head_dim: int | None = None,
        attn_norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        num_class_embeds: int | None = None,
        time_embedding_dim: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        time_channels = time_embedding_dim or 4 * block_out_channels[0]
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            flip_sin_to_cos=flip_sin_to_cos,
            freq_shift=freq_shift,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            dropout=dropout,
            attention_head_dim=attention_head_dim,
            attn_norm_num_groups=attn_norm_num_groups,
            norm_eps=norm_eps,
            resnet_time_scale_shift=resnet_time_scale_shift,
            num_class_embeds=num_class_embeds,
            time_embedding_dim=time_embedding_dim,
        )
        self.time_proj = Timesteps(time_channels // 4, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(time_channels // 4, time_channels)
        if num_heads is None:
            return
        this: Any = self
        for module in this.modules():
            if isinstance(module, Attention):
                module.heads = module.sliceable_head_dim = num_heads
                module.scale = (module.inner_dim // num_heads) ** -0.5
