"""Loads diffusers folders from any source.

A folder has `unet` or `transformer`, `scheduler`, for latent models `vae` or `vqvae`, and for
Stable Diffusion `text_encoder` and `tokenizer`. This project adds two parts that diffusers
lacks: `class_context` (the cross-attention context of each label) and `diffguard.json` (classes,
null class, image size, and the side of the patches that a pixel model rearranges into channels).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from diffguard.denoisers.build import DiffusionParts, own_config
from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.formats.hub import local_folder
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.formats.prompts import TEXT_ENCODER, encode_prompts
from diffguard.denoisers.networks import AUTOENCODERS, NETWORKS, module_class
from diffguard.errors import UserError, reason_of
from diffguard.storage.arguments import LARGEST_SIDE
from diffguard.storage.reading import read_text
from diffguard.storage.schema import validated
from diffguard.storage.sizes import check_files
from diffguard.storage.state_dict import check_values
from diffguard.storage.weights import load_tensors

NOTE = "diffguard.json"
CONTEXT = "class_context/model.safetensors"
NETWORK_FOLDERS = ("unet", "transformer")
AUTOENCODER_FOLDERS = ("vae", "vqvae")
_WEIGHTS = "diffusion_pytorch_model"
_Patch = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


def load_folder(path: str | Path, options: CheckpointOptions) -> DiffusionParts:
    """Load a diffusers folder, or download it from the hub.

    Args:
        path: A folder, or a hub id `owner/name` where there is no such folder.
        options: What the folder does not say: `num_classes` and `null_class` of a model with
            labels, `class_names` of one with prompts, `image_size` of one that takes any.

    Raises:
        UserError: For a folder that lacks a part, is damaged or of a class that is not known.
    """
    folder = local_folder(path)
    prompted = (folder / TEXT_ENCODER).is_dir() and not (folder / CONTEXT).is_file()
    options.check_used(
        "a folder of diffusers" + (" with a text encoder" if prompted else ""),
        {"image_size", "prompt"} if prompted else {"image_size"},
    )
    note = _read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    network = _load_model(_part(folder, NETWORK_FOLDERS) or folder, NETWORKS)
    stage = _part(folder, AUTOENCODER_FOLDERS)
    autoencoder = None if stage is None else _load_model(stage, AUTOENCODERS)
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
        scheduler=_read_json(scheduler / "scheduler_config.json"),
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
    own = network.config["sample_size"]
    if image_size is None:
        if not isinstance(own, int) or own < 1:
            raise UserError(
                "the folder does not say how large the model's images are: give image_size"
            )
        return own
    levels = len(network.config.get("block_out_channels", ()))
    multiple = factor * 2 ** (levels - 1) if levels else factor * own
    if image_size < 1 or image_size % multiple or (not levels and image_size != multiple):
        raise UserError(
            f"image_size {image_size} cannot be taken by this model: expected "
            f"{'a multiple of ' if levels else ''}{multiple}"
        )
    return image_size // factor


def _check_conditions(config: Any) -> None:
    kind = config.get("class_embed_type") or config.get("addition_embed_type")
    if kind not in (None, "timestep") or config.get("encoder_hid_dim_type"):
        raise UserError(
            f"the network is told more than a timestep and a label ({kind or 'image features'}, "
            "as Stable Diffusion XL): expected class labels or one text encoder"
        )


def _load_context(folder: Path, options: CheckpointOptions) -> ClassContext | None:
    """The stored table, or the encoded prompts of the classes' names."""
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
    """Number of classes and null class, from what the folder says and the user adds."""
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
        options: `num_classes`, and `null_class` where it is not the last of one row more.

    Raises:
        UserError: If neither the number of classes nor the null class is given, or they do not
            fit the rows.
    """
    classes, null = options.num_classes, options.null_class
    if classes is None and null is not None:
        classes = rows - 1
    if classes is None:
        raise UserError(
            f"the model has {rows} class embeddings: give num_classes ({rows - 1} where the last "
            f"is the null class, {rows} where there is none), or null_class"
        )
    if classes not in (rows, rows - 1):
        raise UserError(
            f"the model has {rows} class embeddings, expected num_classes {rows} or {rows - 1}, "
            f"got {classes}"
        )
    if null is None and classes == rows - 1:
        null = rows - 1
    if null is not None and not 0 <= null < rows:
        raise UserError(f"null_class must be one of the {rows} class embeddings, got {null}")
    return (rows if null is None else rows - 1), null


def _load_model(folder: Path, known: tuple[str, ...]) -> Any:
    config = _read_json(folder / "config.json")
    name = config.get("_class_name")
    if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        # How folders name the class that were written before DiT had one of its own.
        name = "DiTTransformer2DModel"
    if name not in known:
        raise UserError(
            f"{folder.name}/config.json names the class {name!r}, expected {', '.join(known)}"
        )
    _check_conditions(config)
    cls = module_class(name, known)
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder.name} is quantized: expected weights in float32, float16 or bf16")
    files = [path for path in folder.glob(f"{_WEIGHTS}*") if path.is_file()]
    own = own_config(cls, config)
    check_files(lambda: cls.from_config(own), files, folder.name)
    binary = not any(folder.glob(f"{_WEIGHTS}*.safetensors"))
    try:
        model, report = cls.from_pretrained(
            folder,
            variant=_variant(folder),
            use_safetensors=False if binary else None,
            torch_dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:
        # Damaged weights and configs raise many types.
        raise UserError(
            f"{folder.name} cannot be loaded ({reason_of(error)}): is it complete?"
        ) from error
    # diffusers fills missing weights with random numbers.
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            first = sorted(str(key) for key in report[what])[0]
            kind = what.removesuffix("_keys")
            if prefix := next((p for p in ("module.", "_orig_mod.") if _all_have(report, p)), None):
                raise UserError(
                    f"the tensors of {folder.name} begin with {prefix!r}, which training left: "
                    "take it off their names"
                )
            raise UserError(f"{folder.name} has {kind} tensors ({first}): is it complete?")
    for name, value in model.state_dict(keep_vars=True).items():
        check_values(f"{folder.name}.{name}", value, value)
    return model.eval()


def _all_have(report: Any, prefix: str) -> bool:
    names = [str(key) for key in report["unexpected_keys"]]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _variant(folder: Path) -> str | None:
    """The copy of the weights to read, as in `….fp16.safetensors`: another where none is plain."""
    names = [path.name.removeprefix(f"{_WEIGHTS}.") for path in folder.glob(f"{_WEIGHTS}.*")]
    kinds = [name.split("-")[0].split(".") for name in names]
    plain = ("safetensors", "bin")
    variants = sorted({kind[0] for kind in kinds if kind[0] not in plain})
    if not variants or any(kind[0] in plain for kind in kinds):
        return None
    if any(path.name.startswith(f"{_WEIGHTS}-0") for path in folder.glob(f"{_WEIGHTS}-*")):
        return None
    return "fp16" if "fp16" in variants else variants[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        # Configs of diffusers may hold infinities, which `read_json` refuses.
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error)}): expected a complete folder of diffusers"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected a complete folder of diffusers")
    return content
