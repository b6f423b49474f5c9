"""Names and shapes of the U-Net of Ho et al. (2020) in PyTorch programs.

DiffOOD's networks use it, as do the encoder and decoder of latent diffusion's first stage. Levels
of `up` are numbered by resolution and run from the highest number down; diffusers numbers them in
the order of execution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from diffguard.denoisers.formats.tensors import Source, count_entries, find_place, has, shape_of
from diffguard.errors import UserError

_OUTSIDE = {
    "time_embedding.linear_1": "temb.dense.0",
    "time_embedding.linear_2": "temb.dense.1",
    "class_embedding": "label_emb",
    "conv_norm_out": "norm_out",
}
_INSIDE = {
    "time_emb_proj": "temb_proj",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_LISTS = {"resnets": "block", "attentions": "attn"}


@dataclass(frozen=True)
class DDPMLayout:
    """The architecture of one half or of both, read from names and shapes.

    Attributes:
        channels: Channels per level, finest first.
        layers: Residual blocks per level of the downward half; the upward half has one more.
        attention: Whether a level has attention, finest first.
    """

    channels: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], half: str = "down") -> DDPMLayout:
        """Infer the architecture from one half, `down` or `up`.

        Raises:
            UserError: If the file has no levels.
        """
        levels = count_entries(tensors, f"{half}.")
        blocks = count_entries(tensors, f"{half}.0.block.") - (half == "up")
        if levels < 1 or blocks < 1:
            raise UserError(
                f"tensors {half}.0.block.… are missing: expected a complete checkpoint of this "
                "family"
            )
        return cls(
            channels=tuple(
                shape_of(tensors, f"{half}.{n}.block.0.conv2.weight")[0] for n in range(levels)
            ),
            layers=blocks,
            attention=tuple(has(tensors, f"{half}.{n}.attn.") for n in range(levels)),
        )

    def locate(self, target: str) -> Source:
        """Find the tensor of the file for a tensor of diffusers' network."""
        place = find_place(target)
        if place is None:
            module, _, leaf = target.rpartition(".")
            return Source(f"{_OUTSIDE.get(module, module)}.{leaf}")
        inner = f"{_INSIDE.get(place.module, place.module)}.{place.leaf}"
        if place.stage == "mid":
            return Source(f"mid.{_LISTS[place.kind]}_{place.index + 1}.{inner}")
        level = place.block if place.stage == "down" else len(self.channels) - 1 - place.block
        if place.kind in _LISTS:
            return Source(f"{place.stage}.{level}.{_LISTS[place.kind]}.{place.index}.{inner}")
        return Source(f"{place.stage}.{level}.{place.stage}sample.{inner}")
