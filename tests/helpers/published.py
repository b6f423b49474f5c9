"""Configs of published models at their full size."""

from __future__ import annotations

from pathlib import Path

import torch

from diffguard.denoisers.formats import convert_tensors
from diffguard.denoisers.spec import DiffusionSpec
from diffguard_cli.diffusion_spec import checkpoint_options, diffusion_spec
from tests.helpers.checkpoint_files import full_size

DIT_XL_2 = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
AUTOENCODER = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
STABLE_DIFFUSION = {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
}
SCHEDULER = {"beta_schedule": "linear", "num_train_timesteps": 1000}
# File in a config -> title among the full-size models.
FILES = {
    "256x256_diffusion_uncond.pt": "256x256_diffusion_uncond.pt",
    "model.ckpt": "cin256-v2",
}


def latent_spec(network, config, size, classes, **further):
    """A diffusion model on the latents of Stable Diffusion's autoencoder."""
    return DiffusionSpec(
        network, config, SCHEDULER, size, 3, classes, classes,
        autoencoder="AutoencoderKL", autoencoder_config=AUTOENCODER, **further,
    )  # fmt: skip


def published_spec(config, data):
    """The diffusion model that a config trains or names, at full size and without its weights.

    The placeholder of a user's model stands for a class-conditional latent model.
    """
    if config.ckpt is None:
        return diffusion_spec(config, data)
    name = Path(config.ckpt).name
    if name.startswith("stable-diffusion"):
        context = [data.num_classes + 1, 77, 768]
        network = "UNet2DConditionModel"
        return latent_spec(network, STABLE_DIFFUSION, 512, data.num_classes, context=context)
    if name in FILES:
        entry = next(entry for title, entry in full_size() if title.startswith(FILES[name]))
        tensors = {n: torch.empty(s, device="meta") for n, s in entry["tensors"].items()}
        parts = convert_tensors(tensors, checkpoint_options(config, data))
        return parts.spec(image_size=data.image_size)
    classes = 1000 if name == "DiT-XL-2-256" else data.num_classes
    dit = {**DIT_XL_2, "num_embeds_ada_norm": classes}
    return latent_spec("DiTTransformer2DModel", dit, 256, classes)
