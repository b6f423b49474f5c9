"""A tiny random model of every family, as folders and files."""

import json
import string

import diffusers
import torch
from torch import nn

from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.formats import CheckpointOptions
from diffguard.denoisers.formats.options import linear_schedule
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.parts import DiffusionParts
from tests.helpers.checkpoint_files import OWN, cases_in
from tests.helpers.tiny_models import tiny_unet

CLASSES = 3
NAMES = ("cat", "golden_retriever", "ox")
BLOCKS = {"block_out_channels": (16, 16), "norm_num_groups": 8}


def _seeded(build):
    torch.manual_seed(0)
    return build().eval()


def kl():
    return _seeded(
        lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=16,
            scaling_factor=0.5,
            **BLOCKS,
        )
    )


def vq():
    return _seeded(
        lambda: diffusers.VQModel(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            num_vq_embeddings=16,
            scaling_factor=1.0,
            **BLOCKS,
        )
    )


def dit(channels=4, size=8):
    """The layout of DiT-XL/2: learned sigma, null class after the classes."""
    network = _seeded(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=channels,
            out_channels=2 * channels,
            num_layers=2,
            sample_size=size,
            patch_size=2,
            norm_num_groups=8,
            num_embeds_ada_norm=CLASSES,
        )
    )
    # DiT initializes these weights with zeros and would predict no noise.
    nn.init.normal_(network.proj_out_2.weight, std=0.2)
    return network


def unet(cross=None):
    """A conditional latent U-Net: class embeddings, or cross-attention of a width."""
    attends = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross,
        "attention_head_dim": 2,
    }
    plain = {
        "down_block_types": ("DownBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("UpBlock2D",) * 2,
        "num_class_embeds": CLASSES + 1,
    }
    return _seeded(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8, layers_per_block=1, **BLOCKS, **(attends if cross else plain)
        )
    )


def _pixel(network, classes, size):
    return DiffusionParts("ddpm", network, linear_schedule(), size, classes, classes)


def _latent(network, autoencoder, classes=CLASSES, **further):
    schedule = linear_schedule(clip_sample=False)
    return DiffusionParts("ldm", network, schedule, 16, classes, classes, autoencoder, **further)


def _context():
    torch.manual_seed(0)
    return ClassContext(torch.randn(CLASSES + 1, 1, 12))


FOLDERS = {
    "unet": lambda: _pixel(tiny_unet(3, 8), None, 8),
    "unet_classes": lambda: _pixel(tiny_unet(3, 8, CLASSES), CLASSES, 8),
    "dit_pixels": lambda: _pixel(dit(3, 8), CLASSES, 8),
    "latent_unet_vq": lambda: _latent(tiny_unet(4, 8), vq(), None),
    "latent_classes_kl": lambda: _latent(unet(), kl()),
    "latent_context_vq": lambda: _latent(unet(12), vq(), context=_context()),
    "latent_dit_kl": lambda: _latent(dit(), kl()),
}
FILES = {case.name: case for case in cases_in(OWN) if not case.is_classifier and case.file}
FAMILIES = [*FOLDERS, "stable_diffusion", *(n for n in FILES if n != "ddpm_cifar_uncond")]


def write_folder(name, folder):
    """Write a model as a diffusers folder, without our own file if it adds nothing."""
    save_folder(FOLDERS[name](), folder)
    return folder


def write_stable_diffusion(folder):
    """A folder in the layout of Stable Diffusion."""
    from transformers import CLIPTextConfig, CLIPTextModel

    unet(16).save_pretrained(folder / "unet")
    kl().save_pretrained(folder / "vae")
    diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    ).save_pretrained(folder / "scheduler")
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 32,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
            }
        )
    )
    return folder


def options_of(name):
    if name in FILES:
        return FILES[name].options()
    return CheckpointOptions(num_classes=CLASSES, class_names=NAMES)
