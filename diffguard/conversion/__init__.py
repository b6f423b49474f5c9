"""Diffusion models as people have them: the paper's own checkpoints, and folders of diffusers.

The family of a file is told by the names of its tensors; see `adm`, `ldm` and `ddpm` for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from diffguard.conversion import adm, ddpm, ldm
from diffguard.conversion.folder import load_folder
from diffguard.conversion.options import CheckpointOptions, Converted
from diffguard.conversion.resnet import load_openood_classifier
from diffguard.conversion.safe_load import read_checkpoint_tensors
from diffguard.conversion.tensors import has
from diffguard.denoisers import PixelDenoiser
from diffguard.errors import UserError
from diffguard.latent import LatentDenoiser
from diffguard.schedule import NoiseSchedule

__all__ = [
    "CheckpointOptions",
    "Converted",
    "convert_tensors",
    "detect_family",
    "load_denoiser",
    "load_diffusion",
    "load_openood_classifier",
    "wrap_converted",
]

_PLAIN = CheckpointOptions()
_CONVERTERS = {"adm": adm.convert, "ldm": ldm.convert, "ddpm": ddpm.convert}


def detect_family(tensors: Mapping[str, Tensor]) -> str:
    """Tell the family of a state dict by its names: `adm`, `ldm`, `ddpm` or `classifier`.

    Raises:
        UserError: For names of none of them.
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
        f"tensors such as {', '.join(sorted(tensors)[:3])} belong to no family that is known: "
        "expected guided-diffusion, class-conditional latent diffusion, DiffOOD's DDPM, or a "
        "folder of diffusers"
    )


def convert_tensors(
    tensors: Mapping[str, Tensor], options: CheckpointOptions = _PLAIN
) -> Converted:
    """Convert the state dict of a diffusion model of any known family.

    Args:
        tensors: Name -> tensor, as in the file; they may be on the meta device.
        options: What the file does not say.

    Raises:
        UserError: For another family, a missing option, and tensors that do not fit.
    """
    family = detect_family(tensors)
    if family == "classifier":
        raise UserError(
            "this is a classifier, expected a diffusion model: give the file in classifier.ckpt"
        )
    converted = _CONVERTERS[family](tensors, options)
    converted.check_classes(options.num_classes)
    return converted


def load_diffusion(path: str | Path, options: CheckpointOptions = _PLAIN) -> Converted:
    """Load a diffusion model from a file of a known family, a diffusers folder or a hub id.

    Args:
        path: What to load.
        options: What the file or folder does not say.

    Raises:
        UserError: Where it cannot be loaded; one line that starts with the path.
    """
    try:
        if Path(path).is_file():
            return convert_tensors(read_checkpoint_tensors(path), options)
        converted = load_folder(path, options)
        converted.check_classes(options.num_classes)
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f"{path}: {error}") from error
    return converted


def wrap_converted(
    converted: Converted,
    *,
    working_size: int | None = None,
    image_channels: int = 3,
    fit: Literal["resize", "pad"] = "resize",
    antialias: bool = True,
) -> PixelDenoiser | LatentDenoiser:
    """Put the adapter around a diffusion model.

    Args:
        converted: The model.
        working_size: Side of the working images; None is that of the model's images.
        image_channels: Channels of the working images, 1 or 3.
        fit: How images of another size reach a pixel model: `resize` or `pad`.
        antialias: Whether resizing low-passes when it shrinks.

    Raises:
        UserError: For `pad` with a latent model or a larger image.
    """
    schedule = NoiseSchedule.from_diffusers(converted.scheduler)
    size = converted.image_size if working_size is None else working_size
    if converted.autoencoder is None:
        return PixelDenoiser(
            converted.network,
            schedule,
            image_size=size,
            image_channels=image_channels,
            num_classes=converted.num_classes,
            null_class=converted.null_class,
            fit=fit,
            antialias=antialias,
        )
    if fit == "pad":
        raise UserError("images cannot be padded for a latent model: set diffusion.fit to resize")
    return LatentDenoiser(
        converted.network,
        converted.autoencoder,
        schedule,
        image_size=size,
        image_channels=image_channels,
        num_classes=converted.num_classes,
        null_class=converted.null_class,
        class_embedding=converted.class_embedding,
        antialias=antialias,
    )


def load_denoiser(
    path: str | Path,
    options: CheckpointOptions = _PLAIN,
    *,
    working_size: int | None = None,
    image_channels: int = 3,
    fit: Literal["resize", "pad"] = "resize",
    antialias: bool = True,
) -> PixelDenoiser | LatentDenoiser:
    """Load a diffusion model and put its adapter around; see the two functions above.

    Raises:
        UserError: One line that says what is wrong with the file, or which option is needed.
    """
    return wrap_converted(
        load_diffusion(path, options),
        working_size=working_size,
        image_channels=image_channels,
        fit=fit,
        antialias=antialias,
    )
