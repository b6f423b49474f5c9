"""Diffusion models as diffusers folders: weights as safetensors, beside a scheduler's config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from torch import nn

from diffguard.denoisers import PixelDenoiser
from diffguard.errors import UserError
from diffguard.models import DiffusionSpec, diffusion_class, wrap_denoiser

_SUBFOLDERS = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}


def save_diffusers(folder: Path, network: nn.Module, scheduler: dict[str, Any]) -> None:
    """Write a network and its scheduler; the folder appears in whole or not at all.

    A `UNet2DModel` becomes a `DDPMPipeline` folder, another network its own subfolder beside
    `scheduler/`.

    Args:
        folder: Folder to make; an older one is replaced.
        network: The diffusers model.
        scheduler: Config of its scheduler.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    name = type(network).__name__
    pipeline: Any = DDPMPipeline
    noise = DDPMScheduler.from_config(scheduler)
    if name == "UNet2DModel":
        pipeline(unet=network, scheduler=noise).save_pretrained(temporary)
    else:
        network.save_pretrained(temporary / _SUBFOLDERS[name])  # type: ignore[operator]
        noise.save_pretrained(temporary / "scheduler")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_diffusers(
    folder: str | Path,
    *,
    image_size: int,
    image_channels: int,
    classifier_classes: int,
    null_class: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    antialias: bool = True,
) -> tuple[PixelDenoiser, DiffusionSpec]:
    """Load a pixel-space model from a local diffusers folder.

    Args:
        folder: A pipeline folder (`unet/` or `transformer/` beside `scheduler/`).
        image_size: Side of the working images.
        image_channels: Channels of the working images.
        classifier_classes: Number K of the protected classifier's classes.
        null_class: Label that means "no label"; None: the last of K + 1 label rows, the extra row
            of a DiT, or none.
        fit: How images reach the network's size.
        antialias: Whether `resize` low-passes when it shrinks.

    Returns:
        The denoiser and what it is.

    Raises:
        UserError: Where the folder is not one of a known model, or its weights are damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: expected a diffusers folder in diffusion.ckpt")
    found = [name for name, sub in _SUBFOLDERS.items() if (folder / sub / "config.json").is_file()]
    if not found:
        raise UserError(
            f"{folder} holds neither unet/config.json nor transformer/config.json: expected a "
            "diffusers folder of a pixel-space model"
        )
    name = found[0]
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    config = _read_json(folder / _SUBFOLDERS[name] / "config.json")
    cls = diffusion_class(name)
    if not any((folder / _SUBFOLDERS[name]).glob("*.safetensors")):
        raise UserError(
            f"{folder / _SUBFOLDERS[name]} holds no .safetensors weights: other files may run code "
            "when loaded, save the model again with diffusers' save_pretrained"
        )
    try:
        network, loading = cls.from_pretrained(
            folder / _SUBFOLDERS[name],
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:
        # diffusers and safetensors raise many types for missing and damaged weights.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the weights in {folder} cannot be loaded: {reason}") from error
    # diffusers fills what is missing with random numbers.
    if wrong := [*loading["missing_keys"], *loading["unexpected_keys"]]:
        raise UserError(
            f"the weights in {folder} do not fit its config: {len(wrong)} tensors are missing or "
            f"left over ({', '.join(wrong[:3])})"
        )
    classes, null_class = label_classes(name, config, classifier_classes, null_class)
    spec = DiffusionSpec(
        network=name,
        config=_public(config),
        scheduler=_public(scheduler),
        image_size=image_size,
        image_channels=image_channels,
        num_classes=classes,
        null_class=null_class,
        fit=fit,
        antialias=antialias,
    )
    return wrap_denoiser(network, spec), spec


def label_classes(
    network: str, config: dict[str, Any], classifier_classes: int, null_class: int | None
) -> tuple[int | None, int | None]:
    """How many classes a diffusers model knows, and which label means none.

    Returns:
        Number of classes (None for an unconditional model) and the null class (None if absent).
    """
    if network == "DiTTransformer2DModel":
        # DiT's table has one row more than its config says: that of a dropped label.
        rows = config["num_embeds_ada_norm"] + 1
        null_class = rows - 1 if null_class is None else null_class
    else:
        rows = config.get("num_class_embeds")
        if rows is None:
            return None, None
        if null_class is None and rows == classifier_classes + 1:
            null_class = rows - 1
    return (rows if null_class is None else rows - 1), null_class


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: expected a diffusers config ({error})") from error


def _public(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
