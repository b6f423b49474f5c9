"""The CIFAR networks of DiffOOD (a DDPM U-Net with classifier-free labels)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diffguard.denoisers.formats.ddpm_names import DDPMLayout
from diffguard.denoisers.formats.options import CheckpointOptions, linear_schedule
from diffguard.denoisers.formats.tensors import build_empty, fill, has, shape_of
from diffguard.denoisers.networks import NETWORKS, module_class
from diffguard.denoisers.parts import DiffusionParts


def convert(tensors: Mapping[str, Tensor], options: CheckpointOptions) -> DiffusionParts:
    """Convert a DDPM U-Net; with `label_emb`, its last row is the null class.

    Args:
        tensors: State dict of the file.
        options: `image_size` must be given.

    Raises:
        UserError: If an option or a tensor is missing, or a tensor is left over.
    """
    layout = DDPMLayout.read(tensors)
    image_size = options.need_image_size(2 ** (len(layout.channels) - 1))
    rows = shape_of(tensors, "label_emb.weight")[0] if has(tensors, "label_emb.") else None
    attention = layout.attention
    network = build_empty(
        module_class("UNet2DModel", NETWORKS),
        sample_size=image_size,
        in_channels=shape_of(tensors, "conv_in.weight")[1],
        out_channels=shape_of(tensors, "conv_out.weight")[0],
        flip_sin_to_cos=False,
        freq_shift=1,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        block_out_channels=layout.channels,
        layers_per_block=layout.layers,
        downsample_padding=0,  # pads right and bottom only
        attention_head_dim=None,  # one head over all channels
        norm_eps=1e-6,
        num_class_embeds=rows,
    )
    fill(network, tensors, layout.locate)
    return DiffusionParts(
        family="ddpm",
        network=network,
        scheduler=linear_schedule(variance_type="fixed_large"),
        image_size=image_size,
        num_classes=None if rows is None else rows - 1,
        null_class=None if rows is None else rows - 1,
    )
