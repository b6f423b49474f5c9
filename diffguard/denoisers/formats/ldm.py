"""CompVis latent diffusion, class-conditional (`cin256-v2`; Rombach et al., 2022).

The file's `state_dict` holds the schedule, a U-Net with cross-attention, a VQ first stage and a
table of class embeddings, whose last row is the null class. Averaged weights (`model_ema.…`) are
ignored as in the reference, whose configuration turns them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.formats.ddpm_names import DDPMLayout
from diffguard.denoisers.formats.openai_names import OpenAILayout
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.formats.tensors import (
    Part,
    Source,
    build_empty,
    count_entries,
    fill,
    has,
    identity,
    shape_of,
)
from diffguard.denoisers.networks import AUTOENCODERS, NETWORKS, module_class
from diffguard.denoisers.parts import DiffusionParts
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from diffguard.storage.state_dict import check_values

UNET = "model.diffusion_model."
_FIRST_STAGE = "first_stage_model."
_CONDITION = "cond_stage_model."
_EMA = "model_ema."
# Everything else about the schedule follows from the betas.
_DERIVED = {
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}
_PUBLISHED = "num_heads 1 in cin256-v2"


def convert(tensors: Mapping[str, Tensor], options: CheckpointOptions) -> DiffusionParts:
    """Convert a class-conditional latent diffusion model.

    Args:
        tensors: The file's `state_dict`.
        options: `image_size` (pixels), and `num_heads` or `num_head_channels`, must be given.

    Raises:
        UserError: If an option or a tensor is missing, or a tensor is left over.
    """
    prefixes = (UNET, _FIRST_STAGE, _CONDITION, _EMA)
    extra = sorted(
        n for n in tensors if not n.startswith(prefixes) and n not in {"betas", *_DERIVED}
    )
    if extra:
        raise UserError(
            f"tensor {extra[0]} is left over ({len(extra)} in all): expected a class-conditional "
            "latent diffusion checkpoint without other tensors"
        )
    if "betas" not in tensors:
        raise UserError("tensor betas is missing: expected a complete checkpoint of this family")
    autoencoder, factor = _first_stage(Part(tensors, _FIRST_STAGE), options)
    network = _unet(Part(tensors, UNET), options, factor)
    rows, width = shape_of(tensors, f"{_CONDITION}embedding.weight")
    embedding = build_empty(nn.Embedding, num_embeddings=rows, embedding_dim=width)
    condition = Part(tensors, _CONDITION)
    fill(embedding, condition, lambda target: Source(f"embedding.{target}"))
    if width != network.config["cross_attention_dim"]:
        raise UserError(
            f"class embeddings have {width} channels and cross-attention takes "
            f"{network.config['cross_attention_dim']}: the parts of the file do not fit together"
        )
    return DiffusionParts(
        family="ldm",
        network=network,
        scheduler=scheduler_config(tensors["betas"]),
        image_size=autoencoder.config["sample_size"],
        num_classes=rows - 1,
        null_class=rows - 1,
        autoencoder=autoencoder,
        context=ClassContext(embedding.weight.data[:, None]),
    )


def scheduler_config(betas: Tensor) -> dict[str, Any]:
    """The scheduler config of a file's betas, by name if their square roots are linear.

    Raises:
        UserError: If the betas are not noise levels.
    """
    if betas.ndim != 1 or not len(betas):
        raise UserError(
            f"tensor betas has shape {tuple(betas.shape)}, expected a value per timestep"
        )
    check_values("betas", betas, nn.Parameter(torch.empty(0)))
    config: dict[str, Any] = {
        "num_train_timesteps": len(betas),
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    if betas.is_meta:
        return {**config, "beta_schedule": "scaled_linear"}
    start, end = (float(f"{float(beta):.6g}") for beta in (betas[0], betas[-1]))
    linear = NoiseSchedule.scaled_linear(len(betas), start, end)
    if linear.betas.allclose(betas.double(), rtol=1e-5, atol=0.0):
        return {**config, "beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end}
    return {**config, "trained_betas": betas.double().tolist()}


def _unet(tensors: Mapping[str, Tensor], options: CheckpointOptions, factor: int) -> Any:
    layout = OpenAILayout.read(tensors)
    middle = "middle_block.1."
    if not has(tensors, f"{middle}transformer_blocks.") or layout.scale_shift:
        raise UserError(
            "the U-Net has no class cross-attention of the cin256 kind: of latent diffusion, only "
            "the class-conditional models with cross-attention can be converted"
        )
    heads = tuple(options.need_heads(c, _PUBLISHED) for c in layout.channels)
    depth = count_entries(tensors, f"{middle}transformer_blocks.")
    context = shape_of(tensors, f"{middle}transformer_blocks.0.attn2.to_k.weight")[1]
    # The projections around a transformer are linear layers, or convolutions of kernel 1.
    projection = tensors.get(f"{middle}proj_in.weight")
    is_linear = projection is not None and projection.ndim == 2
    attention = layout.attention
    network = build_empty(
        module_class("UNet2DConditionModel", NETWORKS),
        sample_size=options.need_image_size(factor * 2 ** (len(layout.channels) - 1)) // factor,
        in_channels=layout.in_channels,
        out_channels=layout.out_channels,
        flip_sin_to_cos=True,
        freq_shift=0,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)
        ),
        block_out_channels=layout.channels,
        layers_per_block=layout.layers,
        norm_eps=1e-5,
        cross_attention_dim=context,
        attention_head_dim=heads,  # the number of heads, despite the name
        transformer_layers_per_block=depth,
        use_linear_projection=is_linear,
    )
    fill(network, tensors, lambda target: layout.locate(target, lambda _level: 1))
    return network


def _first_stage(tensors: Mapping[str, Tensor], options: CheckpointOptions) -> tuple[Any, int]:
    """The autoencoder and its downsampling factor."""
    halves = {half: Part(tensors, f"{half}.") for half in ("encoder", "decoder")}
    down = DDPMLayout.read(halves["encoder"], "down")
    up = DDPMLayout.read(halves["decoder"], "up")
    codes, width = shape_of(tensors, "quantize.embedding.weight")
    factor = 2 ** (len(down.channels) - 1)
    network = build_empty(
        module_class("VQModel", AUTOENCODERS),
        in_channels=shape_of(halves["encoder"], "conv_in.weight")[1],
        out_channels=shape_of(halves["decoder"], "conv_out.weight")[0],
        down_block_types=tuple(
            "AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in down.attention
        ),
        up_block_types=tuple(
            "AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(up.attention)
        ),
        block_out_channels=down.channels,
        layers_per_block=down.layers,
        latent_channels=shape_of(halves["encoder"], "conv_out.weight")[0],
        sample_size=options.need_image_size(factor),
        num_vq_embeddings=codes,
        vq_embed_dim=width,
        scaling_factor=1.0,
    )

    def locate(target: str) -> Source:
        half, _, name = target.partition(".")
        if half not in halves:
            return identity(target)
        return Source(f"{half}.{down.locate(name).name}")

    fill(network, tensors, locate)
    return network, factor
