"""Names and shapes of the U-Net of guided-diffusion, which latent diffusion also uses.

`input_blocks`, `middle_block` and `output_blocks` are flat lists. A level of n residual blocks has
n + 1 entries, including its resampling or, for the first level, the input convolution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from diffguard.denoisers.formats.tensors import (
    Place,
    Source,
    count_entries,
    find_place,
    has,
    shape_of,
)
from diffguard.errors import UserError

_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
_JOINT = {"to_q": 0, "to_k": 1, "to_v": 2}


@dataclass(frozen=True)
class OpenAILayout:
    """The architecture of such a U-Net, read from names and shapes.

    Attributes:
        in_channels: Channels of the state.
        out_channels: Channels of the output; twice as many if the variance is learned.
        model_channels: Channels of the sinusoidal embedding.
        channels: Channels per level, finest first.
        layers: Residual blocks per level.
        attention: Whether a level has attention, finest first.
        residual_resampling: Whether residual blocks resample, or plain convolutions.
        scale_shift: Whether the embedding scales and shifts, or is added.
        classes: Rows of the class embedding; None without one.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channels: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    residual_resampling: bool
    scale_shift: bool
    classes: int | None

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> OpenAILayout:
        """Infer the architecture.

        Raises:
            UserError: If the numbers of blocks do not match.
        """
        outputs = count_entries(tensors, "output_blocks.")
        up = re.compile(r"output_blocks\.(\d+)\.[12]\.(in_layers\.|conv\.)")
        resampled = {int(m.group(1)): m.group(2) for name in tensors if (m := up.match(name))}
        # The first level ends with the first resampling; a single level has none.
        per_level = min(resampled, default=outputs - 1) + 1
        inputs = count_entries(tensors, "input_blocks.")
        if per_level < 2 or outputs % per_level or inputs != outputs:
            raise UserError(
                f"{inputs} input_blocks and {outputs} output_blocks do not make a U-Net: "
                "tensors are missing, expected a complete checkpoint of this family"
            )
        firsts = [f"input_blocks.{1 + n * per_level}" for n in range(outputs // per_level)]
        channels = tuple(shape_of(tensors, f"{first}.0.out_layers.3.weight")[0] for first in firsts)
        embedded = shape_of(tensors, f"{firsts[0]}.0.emb_layers.1.weight")[0]
        has_classes = has(tensors, "label_emb.")
        return cls(
            in_channels=shape_of(tensors, "input_blocks.0.0.weight")[1],
            out_channels=shape_of(tensors, "out.2.weight")[0],
            model_channels=shape_of(tensors, "time_embed.0.weight")[1],
            channels=channels,
            layers=per_level - 1,
            attention=tuple(has(tensors, f"{first}.1.") for first in firsts),
            residual_resampling="in_layers." in resampled.values(),
            scale_shift=embedded == 2 * channels[0],
            classes=shape_of(tensors, "label_emb.weight")[0] if has_classes else None,
        )

    def locate(self, target: str, heads: Callable[[int], int]) -> Source:
        """Find the tensor of the file for a tensor of `UNet2DModel` or `UNet2DConditionModel`.

        Args:
            target: Its name in diffusers.
            heads: Level -> blocks of rows in the joint projection of attention.
        """
        place = find_place(target)
        if place is None:
            module, _, leaf = target.rpartition(".")
            return Source(f"{_OUTSIDE[module]}.{leaf}")
        base = self._base(place)
        if place.kind == "attentions":
            if place.module in _JOINT:
                part = _JOINT[place.module]
                return Source(f"{base}.qkv.{place.leaf}", part, heads(self._level(place)))
            # Transformers have the same names on both sides.
            inner = _ATTENTION.get(place.module, place.module)
        elif place.module == "conv":
            inner = "op" if place.stage == "down" else "conv"
        else:
            inner = _RESIDUAL[place.module]
        return Source(f"{base}.{inner}.{place.leaf}")

    def _level(self, place: Place) -> int:
        """Level of a place, 0 for the finest."""
        if place.stage == "down":
            return place.block
        return len(self.channels) - 1 - (place.block if place.stage == "up" else 0)

    def _base(self, place: Place) -> str:
        per_level = self.layers + 1
        if place.stage == "mid":
            return f"middle_block.{1 if place.kind == 'attentions' else 2 * place.index}"
        attention = int(place.kind == "attentions")
        if place.kind == "downsamplers":
            return f"input_blocks.{(place.block + 1) * per_level}.0"
        if place.kind == "upsamplers":
            last = place.block * per_level + self.layers
            return f"output_blocks.{last}.{2 if self.attention[self._level(place)] else 1}"
        if place.stage == "down":
            return f"input_blocks.{1 + place.block * per_level + place.index}.{attention}"
        return f"output_blocks.{place.block * per_level + place.index}.{attention}"
