"""Options for hyper-parameters that a checkpoint file does not contain."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

from diffguard.errors import UserError

AdmSchedule = Literal["linear", "cosine"]

# Options that state what a run expects of any model; `load_diffusion` compares the null class.
_EXPECTED = ("num_classes", "null_class", "class_names")


@dataclass(frozen=True)
class CheckpointOptions:
    """Hyper-parameters that do not follow from tensors; an error names each that is needed.

    Attributes:
        image_size: Side in pixels of the images that the model was trained on; for latent models
            also the image, not the latent.
        num_head_channels: Channels per attention head (guided-diffusion: 64 in the published
            64×64, 256×256 and 512×512 models).
        num_heads: Number of attention heads, for models with a fixed number (guided-diffusion
            128×128: 4; latent diffusion cin256-v2: 1).
        new_attention_order: Rows of joint projections are all queries, then all keys, then all
            values (guided-diffusion's 64×64 model); otherwise they are grouped by head.
        noise_schedule: For guided-diffusion: `linear`, or `cosine` (its 64×64 model).
        num_classes: Classes that the user expects, without the null class; None accepts any.
        null_class: The label that means "no label"; needed if a diffusers folder does not state it.
        class_names: Names of the classes, for a model with a text encoder.
        prompt: Template of the prompt for a class of such a model, with `{name}` in it.
    """

    image_size: int | None = None
    num_head_channels: int | None = None
    num_heads: int | None = None
    new_attention_order: bool = False
    noise_schedule: AdmSchedule = "linear"
    num_classes: int | None = None
    null_class: int | None = None
    class_names: tuple[str, ...] | None = None
    prompt: str = "a photo of a {name}"

    def check_used(self, family: str, used: Collection[str]) -> None:
        """Refuse options that do not apply to a family of models.

        Args:
            family: Name of the family, for the message.
            used: Options that this family needs or takes.

        Raises:
            UserError: If an option would have no effect.
        """
        for option in fields(self):
            idle = option.name not in used and option.name not in _EXPECTED
            if idle and getattr(self, option.name) != option.default:
                raise UserError(
                    f"{option.name} {getattr(self, option.name)} does not apply to {family}: leave "
                    "it out" + (f" (it takes {', '.join(sorted(used))})" if used else "")
                )

    def need_image_size(self, factor: int) -> int:
        """The image size, which must be a multiple of `factor`.

        Raises:
            UserError: If it was not given, or the model cannot take it.
        """
        if self.image_size is None:
            raise UserError(
                "the file does not state the size of the model's images: give image_size (in "
                "pixels; 256 for the published ImageNet models, 32 for CIFAR-10)"
            )
        if self.image_size < factor or self.image_size % factor:
            raise UserError(
                f"this model cannot take image_size {self.image_size}: expected a multiple of "
                f"{factor}"
            )
        return self.image_size

    def need_heads(self, channels: int, published: str) -> int:
        """Number of attention heads at a level.

        Args:
            channels: Channels of the level.
            published: Options of the published files, for the message.

        Raises:
            UserError: If neither option or both are given, or the heads do not divide the channels.
        """
        options = [v for v in (self.num_head_channels, self.num_heads) if v is not None]
        if len(options) != 1:
            raise UserError(
                f"the file does not state how attention is split into heads: give one of "
                f"num_head_channels and num_heads (published: {published})"
            )
        if options[0] < 1 or channels % options[0]:
            name = "num_heads" if self.num_head_channels is None else "num_head_channels"
            raise UserError(
                f"{name} {options[0]} does not divide the {channels} channels of a level"
            )
        return options[0] if self.num_head_channels is None else channels // options[0]


def linear_schedule(**further: Any) -> dict[str, Any]:
    """Scheduler config of 1,000 linear betas from 1e-4 to 0.02 (Ho et al., 2020)."""
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        **further,
    }


@dataclass(frozen=True)
class ModelSource:
    """Where a diffusion model is loaded from.

    Attributes:
        path: Checkpoint file, diffusers folder or hub id.
        options: Options that it is loaded with.
    """

    path: str
    options: CheckpointOptions
