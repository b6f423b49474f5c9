"""Folders of diffusers: written from converted models, and read from anyone.

A folder has `unet` or `transformer`, `scheduler`, and for latent models `vae` or `vqvae`. Two
things diffusers has no place for are ours: `class_embedding` (the table whose row is the context
of cross-attention) and `diffguard.json` (classes, null class, image size).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from diffguard.conversion.options import CheckpointOptions, Converted
from diffguard.conversion.tensors import build_empty, fill, identity
from diffguard.errors import UserError
from diffguard.weights import load_tensors

NOTE = "diffguard.json"
_NETWORKS = ("UNet2DModel", "ADMUNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
_AUTOENCODERS = ("AutoencoderKL", "VQModel")
_EMBEDDING = "class_embedding/model.safetensors"
_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_PARTS = ("unet", "transformer", "vae", "vqvae", "scheduler", "class_embedding")


def save_folder(converted: Converted, folder: str | Path) -> None:
    """Write a diffusion model as a folder of diffusers.

    Args:
        converted: The model.
        folder: Where to; it may not exist, or be empty.

    Raises:
        UserError: For a folder with something in it, or one that cannot be written.
    """
    import diffusers
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name a new folder or empty it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        latent = converted.autoencoder is not None
        kind = diffusers.DDIMScheduler if latent else diffusers.DDPMScheduler
        scheduler = kind.from_config(converted.scheduler)
        if not latent and type(converted.network) is diffusers.UNet2DModel:
            pipeline: Any = diffusers.DDPMPipeline(converted.network, scheduler)
            pipeline.save_pretrained(folder)
        else:
            is_dit = isinstance(converted.network, diffusers.DiTTransformer2DModel)
            converted.network.save_pretrained(folder / ("transformer" if is_dit else "unet"))
            scheduler.save_pretrained(folder / "scheduler")
        if converted.autoencoder is not None:
            is_vq = isinstance(converted.autoencoder, diffusers.VQModel)
            converted.autoencoder.save_pretrained(folder / ("vqvae" if is_vq else "vae"))
        if converted.class_embedding is not None:
            (folder / _EMBEDDING).parent.mkdir()
            save_file(dict(converted.class_embedding.state_dict()), folder / _EMBEDDING)
        note = {
            "num_classes": converted.num_classes,
            "null_class": converted.null_class,
            "image_size": converted.image_size,
        }
        (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def load_folder(path: str | Path, options: CheckpointOptions) -> Converted:
    """Load a folder of diffusers, or fetch it from the hub.

    Args:
        path: A folder, or a hub id `owner/name` where there is no such folder.
        options: `num_classes` and `null_class` where the folder does not say.

    Raises:
        UserError: For a folder that lacks a part, is damaged or of a class that is not known.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = _fetch(str(path))
    note = _read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    parts = [name for name in ("unet", "transformer") if (folder / name).is_dir()]
    network = _load_model(folder / parts[0] if parts else folder, _NETWORKS)
    stages = [name for name in ("vae", "vqvae") if (folder / name).is_dir()]
    autoencoder = _load_model(folder / stages[0], _AUTOENCODERS) if stages else None
    scheduler = next(
        (p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None
    )
    if scheduler is None:
        raise UserError("scheduler/scheduler_config.json is missing: expected a diffusers pipeline")
    embedding = _load_embedding(folder / _EMBEDDING) if (folder / _EMBEDDING).is_file() else None
    num_classes, null_class = _classes(network, embedding, note, options)
    factor = 1 if autoencoder is None else 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
    size = network.config["sample_size"] or (options.image_size or 0) // factor
    if not isinstance(size, int) or size < 1:
        raise UserError("the folder does not say how large the model's images are: give image_size")
    network.register_to_config(sample_size=size)
    return Converted(
        family="diffusers",
        network=network,
        scheduler=_read_json(scheduler / "scheduler_config.json"),
        image_size=size * factor,
        num_classes=num_classes,
        null_class=null_class,
        autoencoder=autoencoder,
        class_embedding=embedding,
    )


def _classes(
    network: Any, embedding: nn.Embedding | None, note: dict[str, Any], options: CheckpointOptions
) -> tuple[int | None, int | None]:
    """Number of classes and null class, from what the folder says and the user adds."""
    if "num_classes" in note:
        return note["num_classes"], note.get("null_class")
    config = network.config
    if "num_embeds_ada_norm" in config:
        # A DiT has one more row than classes, for dropped labels.
        return config["num_embeds_ada_norm"], config["num_embeds_ada_norm"]
    rows = config.get("num_class_embeds")
    if embedding is not None:
        rows = embedding.num_embeddings
    if rows is None:
        return None, None
    if options.num_classes is None:
        raise UserError(
            f"the model has {rows} class embeddings: give num_classes ({rows - 1} where the last "
            f"is the null class, {rows} where there is none)"
        )
    if options.num_classes not in (rows, rows - 1):
        raise UserError(
            f"the model has {rows} class embeddings, expected num_classes {rows} or {rows - 1}, "
            f"got {options.num_classes}"
        )
    null = options.null_class
    if null is None and options.num_classes == rows - 1:
        null = rows - 1
    return options.num_classes, null


def _load_model(folder: Path, known: tuple[str, ...]) -> Any:
    import diffusers

    from diffguard.conversion.adm_unet import ADMUNet2DModel

    name = _read_json(folder / "config.json").get("_class_name")
    if name not in known:
        raise UserError(
            f"{folder.name}/config.json names the class {name!r}, expected {', '.join(known)}"
        )
    cls = ADMUNet2DModel if name == "ADMUNet2DModel" else getattr(diffusers, name)
    try:
        model, report = cls.from_pretrained(
            folder, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:
        # Damaged weights and configs surface as many types.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder.name} cannot be loaded ({reason}): is it complete?") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            first = sorted(str(key) for key in report[what])[0]
            kind = what.removesuffix("_keys")
            raise UserError(f"{folder.name} has {kind} tensors ({first}): is it complete?")
    return model.eval()


def _load_embedding(path: Path) -> nn.Embedding:
    tensors = load_tensors(path)
    if set(tensors) != {"weight"} or tensors["weight"].ndim != 2:
        raise UserError(f"{path} must hold one table named weight, got {', '.join(tensors)}")
    rows, width = tensors["weight"].shape
    embedding = build_empty(nn.Embedding, num_embeddings=rows, embedding_dim=width)
    fill(embedding, tensors, identity)
    return embedding


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): expected a complete folder of diffusers"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected a complete folder of diffusers")
    return content


def _fetch(name: str) -> Path:
    """Fetch a model from the hub; only what is needed, and no pickles."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).suffix in _FILES:
        raise UserError(
            f"{name} does not exist: expected a checkpoint file, a folder of diffusers or a hub id"
        )
    from huggingface_hub import snapshot_download

    kinds = ("json", "safetensors")
    patterns = [f"{part}/*.{kind}" for part in _PARTS for kind in kinds]
    try:
        return Path(snapshot_download(name, allow_patterns=[*patterns, "*.json", "*.safetensors"]))
    except Exception as error:
        # The hub's client raises its own types, and those of its network library.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name} is no file or folder here, and the hub did not give it ({reason})"
        ) from error
