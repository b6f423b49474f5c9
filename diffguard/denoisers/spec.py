"""The description of a diffusion model, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from diffguard.batching import ROW_MULTIPLE
from diffguard.storage.arguments import (
    LARGEST_NUMBER,
    LARGEST_SIDE,
    LONGEST_NAME,
    MOST_CLASSES,
)

Fit = Literal["resize", "pad"]
_Name = Annotated[str, StringConstraints(max_length=LONGEST_NAME)]


@dataclass
class DiffusionSpec:
    """Description of a diffusion model, apart from its weights.

    Attributes:
        network: Class of the network, one of `NETWORKS`; or the import path of a denoiser class,
            whose arguments are `config`.
        config: Its diffusers config, or the arguments of the denoiser class.
        scheduler: Config of its diffusers scheduler: the noise levels and the prediction type.
            Empty for a denoiser class, which has its own schedule.
        image_size: Side of the working images.
        image_channels: Channels of the working images.
        num_classes: Number of classes; None for an unconditional model.
        null_class: Label that means "no label"; None if there is none.
        fit: How images are brought to a pixel model's size: `resize` or `pad`.
        antialias: Whether shrinking applies a low-pass filter.
        autoencoder: Class of a latent model's autoencoder, one of `AUTOENCODERS`.
        autoencoder_config: Its diffusers config.
        context: Shape `[labels, tokens, width]` of the cross-attention context of the labels.
        slice_size: Images per call of the autoencoder: 1 or a multiple of 8.
        patch: Side in pixels of the squares that a pixel model rearranges into channels.
    """

    network: _Name
    config: dict[str, Any]
    scheduler: dict[str, Any]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    image_channels: Annotated[int, Field(ge=1, le=3)]
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = None
    null_class: Annotated[int, Field(ge=0, le=MOST_CLASSES)] | None = None
    fit: Fit = "resize"
    antialias: bool = True
    autoencoder: _Name | None = None
    autoencoder_config: dict[str, Any] = field(default_factory=dict)
    context: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]], Field(min_length=3, max_length=3)
        ]
        | None
    ) = None
    slice_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = ROW_MULTIPLE
    patch: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = 1
