"""Latent diffusion models with few weights."""

from __future__ import annotations

import diffusers
import torch

from diffguard.denoisers.latent import LatentDenoiser
from diffguard.diffusion.schedule import NoiseSchedule

CLASSES = 4


def kl():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        scaling_factor=0.5,
    ).eval()


def dit(**changes):
    torch.manual_seed(1)
    return diffusers.DiTTransformer2DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "sample_size": 8,
            "patch_size": 2,
            "num_embeds_ada_norm": CLASSES,
            **changes,
        }
    ).eval()


def unet(**changes):
    torch.manual_seed(2)
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (32, 32),
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "mid_block_type": "UNetMidBlock2D",
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "num_class_embeds": CLASSES + 1,
            **changes,
        }
    ).eval()


def wrap(network, **further):
    further = {"num_classes": CLASSES, "null_class": CLASSES, **further}
    return LatentDenoiser(network, kl(), NoiseSchedule.linear(), image_size=12, **further)
