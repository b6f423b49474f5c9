"""OpenAI guided-diffusion (Dhariwal & Nichol, 2021): the file is the U-Net's state dict.

`256x256_diffusion_uncond.pt` and the class-conditional models, which have no null class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffguard.denoisers.formats.openai_names import OpenAILayout
from diffguard.denoisers.formats.options import CheckpointOptions, linear_schedule
from diffguard.denoisers.formats.tensors import build_empty, fill
from diffguard.denoisers.networks import NETWORKS, module_class
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError

_PUBLISHED = "num_head_channels 64 at 64, 256 and 512 pixels, num_heads 4 at 128"


def convert(tensors: Mapping[str, Tensor], options: CheckpointOptions) -> DiffusionParts:
    """Convert a guided-diffusion U-Net.

    Args:
        tensors: State dict of the file.
        options: `image_size`, and `num_head_channels` or `num_heads`, must be given.

    Raises:
        UserError: If an option or a tensor is missing, or a tensor is left over.
    """
    layout = OpenAILayout.read(tensors)
    image_size = options.need_image_size(2 ** (len(layout.channels) - 1))
    network = _build(layout, image_size, options)

    def heads(level: int) -> int:
        if options.new_attention_order:
            return 1
        return options.need_heads(layout.channels[level], _PUBLISHED)

    fill(network, tensors, lambda target: layout.locate(target, heads))
    learned = layout.out_channels == 2 * layout.in_channels
    kind = {"variance_type": "learned_range" if learned else "fixed_large"}
    if options.noise_schedule == "cosine":
        kind["beta_schedule"] = "squaredcos_cap_v2"
    elif options.noise_schedule != "linear":
        raise UserError(
            f"noise_schedule {options.noise_schedule!r} is not known, expected linear or cosine"
        )
    return DiffusionParts(
        family="adm",
        network=network,
        scheduler=linear_schedule(**kind),
        image_size=image_size,
        num_classes=layout.classes,
    )


def _build(layout: OpenAILayout, image_size: int, options: CheckpointOptions) -> Any:
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
        if layout.residual_resampling
        else ("DownBlock2D", "UpBlock2D")
    )
    resampling = "resnet" if layout.residual_resampling else "conv"
    config: dict[str, Any] = {
        "sample_size": image_size,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": tuple(
            "AttnDownBlock2D" if has else plain_down for has in layout.attention
        ),
        "up_block_types": tuple(
            "AttnUpBlock2D" if has else plain_up for has in reversed(layout.attention)
        ),
        "block_out_channels": layout.channels,
        "layers_per_block": layout.layers,
        "downsample_type": resampling,
        "upsample_type": resampling,
        # Without a number of groups, diffusers omits the norm of the bottleneck's attention.
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "num_class_embeds": layout.classes,
    }
    attended = {c for c, has in zip(layout.channels, layout.attention, strict=True) if has}
    attended.add(layout.channels[-1])
    head_channels = {c // options.need_heads(c, _PUBLISHED) for c in attended}
    if layout.model_channels != layout.channels[0]:
        config["time_embedding_dim"] = 4 * layout.model_channels
    if len(head_channels) > 1:
        network = module_class("ADMUNet2DModel", NETWORKS)
        return build_empty(network, num_heads=options.num_heads, **config)
    config["attention_head_dim"] = head_channels.pop()
    name = "ADMUNet2DModel" if "time_embedding_dim" in config else "UNet2DModel"
    return build_empty(module_class(name, NETWORKS), **config)
