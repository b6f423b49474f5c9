"""Loads diffusers folders from any source.

A folder has `unet` or `transformer`, `scheduler`, for latent models `vae` or `vqvae`, and for
Stable Diffusion `text_encoder` and `tokenizer`. This project adds two parts that diffusers
lacks: `class_context` (the cross-attention context of each label) and `diffguard.json` (classes,
null class, image size, and the side of the patches that a pixel model rearranges into channels).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.formats.hub import local_folder
from diffguard.denoisers.formats.model_folder import load_model, read_config
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.formats.prompts import TEXT_ENCODER, encode_prompts
from diffguard.denoisers.networks import AUTOENCODERS, NETWORKS
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError
from diffguard.storage.arguments import LARGEST_SIDE
from diffguard.storage.schema import validated
from diffguard.storage.state_dict import check_values
from diffguard.storage.weights import load_tensors

NOTE = "diffguard.json"
CONTEXT = "class_context/model.safetensors"
NETWORK_FOLDERS = ("unet", "transformer")
AUTOENCODER_FOLDERS = ("vae", "vqvae")
_Patch = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


def load_folder(path: str | Path, options: CheckpointOptions) -> DiffusionParts:
    """Load a diffusers folder, or download it from the hub.

    Args:
        path: A folder, or a hub id `owner/name` if the folder does not exist.
        options: Hyper-parameters that the folder lacks: `num_classes` and `null_class` of a model
            with labels, `class_names` of a model with prompts, and `image_size` of a model that
            takes any size.

    Raises:
        UserError: If the folder lacks a part, is damaged, or names an unknown class.
    """
    folder = local_folder(path)
    prompted = (folder / TEXT_ENCODER).is_dir() and not (folder / CONTEXT).is_file()
    options.check_used(
        "a folder of diffusers" + (" with a text encoder" if prompted else ""),
        {"image_size", "prompt"} if prompted else {"image_size"},
    )
    note = read_config(folder / NOTE) if (folder / NOTE).is_file() else {}
    network = load_model(_part(folder, NETWORK_FOLDERS) or folder, NETWORKS)
    stage = _part(folder, AUTOENCODER_FOLDERS)
    autoencoder = None if stage is None else load_model(stage, AUTOENCODERS)
    scheduler = next(
        (p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None
    )
    if scheduler is None:
        raise UserError("scheduler/scheduler_config.json is missing: expected a diffusers pipeline")
    context = _load_context(folder, options)
    num_classes, null_class = _classes(network.config, context, note, options)
    patch = validated(_Patch, note.get("patch", 1), f"{folder / NOTE}: patch")
    factor = patch
    if autoencoder is not None:
        factor *= 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
    size = _state_size(network, options.image_size, factor)
    network.register_to_config(sample_size=size)
    return DiffusionParts(
        family="diffusers",
        network=network,
        scheduler=read_config(scheduler / "scheduler_config.json"),
        image_size=size * factor,
        num_classes=num_classes,
        null_class=null_class,
        autoencoder=autoencoder,
        context=context,
        patch=patch,
    )


def _part(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _state_size(network: Any, image_size: int | None, factor: int) -> int:
    """Side of the network's states; U-Nets take any multiple of their downsampling."""
    trained = network.config["sample_size"]
    if image_size is None:
        if not isinstance(trained, int) or trained < 1:
            raise UserError(
                "the folder does not state the size of the model's images: give image_size"
            )
        return trained
    levels = len(network.config.get("block_out_channels", ()))
    multiple = factor * 2 ** (levels - 1) if levels else factor * trained
    if image_size < 1 or image_size % multiple or (not levels and image_size != multiple):
        raise UserError(
            f"this model cannot take image_size {image_size}: expected "
            f"{'a multiple of ' if levels else ''}{multiple}"
        )
    return image_size // factor


def _load_context(folder: Path, options: CheckpointOptions) -> ClassContext | None:
    """The table in the folder, or the encoded prompts of the class names."""
    path = folder / CONTEXT
    if path.is_file():
        tensors = load_tensors(path)
        if set(tensors) != {"table"} or tensors["table"].ndim != 3:
            raise UserError(
                f"{CONTEXT} must hold one tensor table (labels, tokens, width), got "
                f"{', '.join(tensors)}"
            )
        check_values(f"{CONTEXT} table", tensors["table"], nn.Parameter(torch.empty(0)))
        return ClassContext(tensors["table"])
    if (folder / TEXT_ENCODER).is_dir() and options.class_names is not None:
        return ClassContext(encode_prompts(folder, options.class_names, options.prompt))
    return None


def _classes(
    config: Any, context: ClassContext | None, note: dict[str, Any], options: CheckpointOptions
) -> tuple[int | None, int | None]:
    """Number of classes and null class, from the folder and the user's options."""
    if "num_classes" in note:
        return note["num_classes"], note.get("null_class")
    if config.get("num_embeds_ada_norm") is not None:
        # A DiT has one more row than classes, for dropped labels.
        return config["num_embeds_ada_norm"], config["num_embeds_ada_norm"]
    if context is not None:
        return len(context.table) - 1, len(context.table) - 1
    rows = config.get("num_class_embeds")
    if rows is None:
        return None, None
    return label_rows(rows, options)


def label_rows(rows: int, options: CheckpointOptions) -> tuple[int, int | None]:
    """Number of classes and null class of a table of class embeddings.

    Args:
        rows: Rows of the table.
        options: `num_classes`, or `null_class`.

    Raises:
        UserError: If neither the number of classes nor the null class is given, they do not fit
            the rows, or the null class is not the last row.
    """
    classes, null = options.num_classes, options.null_class
    if classes is None and null is not None:
        classes = rows - 1
    if classes is None:
        raise UserError(
            f"the model has {rows} class embeddings: give num_classes ({rows - 1} if the last is "
            f"the null class, {rows} without a null class), or null_class"
        )
    if classes not in (rows, rows - 1):
        raise UserError(
            f"the model has {rows} class embeddings, expected num_classes {rows} or {rows - 1}, "
            f"got {classes}"
        )
    if null is None and classes == rows - 1:
        null = rows - 1
    if null not in (None, rows - 1):
        raise UserError(
            f"null_class must be {rows - 1}, the last of the {rows} class embeddings, because the "
            f"classes are 0 to {rows - 2}, got {null}: reorder the embeddings"
        )
    return (rows if null is None else rows - 1), null
