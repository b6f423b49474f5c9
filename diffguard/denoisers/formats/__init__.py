"""Loads published diffusion models: the paper's checkpoints, and diffusers folders.

A file's family is detected from the names of its tensors; see `adm`, `ldm` and `ddpm` for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.build import wrap_parts
from diffguard.denoisers.formats import adm, ddpm, ldm
from diffguard.denoisers.formats.folder import load_folder
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.formats.tensors import has
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError
from diffguard.storage.foreign import read_checkpoint_tensors

__all__ = [
    "CheckpointOptions",
    "convert_tensors",
    "detect_family",
    "load_denoiser",
    "load_diffusion",
]

_PLAIN = CheckpointOptions()
_CONVERTERS = {"adm": adm.convert, "ldm": ldm.convert, "ddpm": ddpm.convert}
_HEADS = {"num_head_channels", "num_heads"}
# The options of each family, and the name of the family.
_OPTIONS = {
    "adm": ("guided-diffusion", {"image_size", "new_attention_order", "noise_schedule", *_HEADS}),
    "ldm": ("latent diffusion", {"image_size", *_HEADS}),
    "ddpm": ("DiffOOD's DDPM", {"image_size"}),
}


def detect_family(tensors: Mapping[str, Tensor]) -> str:
    """Detect the family of a state dict from its names: `adm`, `ldm`, `ddpm` or `classifier`.

    Raises:
        UserError: If the family is unknown.
    """
    if has(tensors, ldm.UNET):
        return "ldm"
    if has(tensors, "input_blocks."):
        return "adm"
    if has(tensors, "temb.dense."):
        return "ddpm"
    if has(tensors, "layer1.0."):
        return "classifier"
    raise UserError(
        f"tensors such as {', '.join(sorted(tensors)[:3])} belong to an unknown family: "
        "expected guided-diffusion, class-conditional latent diffusion, DiffOOD's DDPM, or a "
        "diffusers folder"
    )


def convert_tensors(
    tensors: Mapping[str, Tensor], options: CheckpointOptions = _PLAIN
) -> DiffusionParts:
    """Convert the state dict of a diffusion model of any known family.

    Args:
        tensors: Name -> tensor, as in the file; they may be on the meta device.
        options: Hyper-parameters that the file does not contain.

    Raises:
        UserError: If the family is another, an option is missing or has no effect, or tensors do
            not fit.
    """
    family = detect_family(tensors)
    if family == "classifier":
        raise UserError(
            "this is a classifier, expected a diffusion model: give the file as the "
            "classifier's weights"
        )
    options.check_used(*_OPTIONS[family])
    return _CONVERTERS[family](tensors, options)


def load_diffusion(path: str | Path, options: CheckpointOptions = _PLAIN) -> DiffusionParts:
    """Load a diffusion model from a file of a known family, a diffusers folder or a hub id.

    Args:
        path: The file, folder or hub id.
        options: Hyper-parameters that the file or folder lacks. If `num_classes` is given, a
            class-conditional model must have that many classes.

    Raises:
        UserError: If the model cannot be loaded; the line starts with the path.
    """
    try:
        if Path(path).is_file():
            parts = convert_tensors(read_checkpoint_tensors(path), options)
        else:
            parts = load_folder(path, options)
        if parts.num_classes is not None:
            parts.check_classes(options.num_classes)
        parts.check_null_class(options.null_class)
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f"{path}: {error}") from error
    return parts


def load_denoiser(
    path: str | Path, options: CheckpointOptions = _PLAIN, **use: Any
) -> DiffusersDenoiser:
    """Load a diffusion model and wrap it in its adapter.

    Args:
        path: See `load_diffusion`.
        options: See `load_diffusion`.
        **use: How images reach the model, see `DiffusionParts.spec`.

    Raises:
        UserError: If the file is damaged or an option is missing.
    """
    parts = load_diffusion(path, options)
    return wrap_parts(parts, parts.spec(**use)).eval()
