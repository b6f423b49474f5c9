"""Writes a diffusion model as a diffusers folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffguard.denoisers.formats.folder import CONTEXT, NOTE
from diffguard.denoisers.formats.prompts import TEXT_ENCODER, TOKENIZER
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError
from diffguard.storage.files import create_folder


def save_folder(
    parts: DiffusionParts,
    folder: str | Path,
    *,
    text_from: str | Path | None = None,
) -> None:
    """Write a diffusion model as a diffusers folder, atomically.

    Args:
        parts: The model.
        folder: Output folder, new or empty.
        text_from: Folder from which a text encoder and a tokenizer are copied, if it has them.

    Raises:
        UserError: If the folder is not empty or cannot be written.
    """
    with create_folder(Path(folder)) as temporary:
        _write(parts, temporary)
        for name in (TEXT_ENCODER, TOKENIZER):
            if text_from is not None and (Path(text_from) / name).is_dir():
                _refuse_foreign_links(Path(text_from), name)
                shutil.copytree(Path(text_from) / name, temporary / name)
        _write_index(parts, temporary)


def _refuse_foreign_links(folder: Path, name: str) -> None:
    """Raise `UserError` if a part of a model has links that lead out of the model's folder."""
    home = Path(os.path.realpath(folder))
    if home.parent.name == "snapshots":  # the hub's cache stores the files next to its snapshots
        home = home.parent.parent
    for place, folders, files in os.walk(folder / name):
        linked = [path for path in (Path(place) / name for name in folders) if path.is_symlink()]
        foreign = [
            path
            for path in (Path(place) / name for name in files)
            if not Path(os.path.realpath(path)).is_relative_to(home)
        ]
        if linked or foreign:
            raise UserError(
                f"{(linked + foreign)[0]} is a link to a folder, or out of its model's folder: "
                "replace the link by the file or folder itself"
            )
    if not Path(os.path.realpath(folder / name)).is_relative_to(home):
        raise UserError(f"{folder / name} is a link out of its model's folder: copy it there")


def _write(parts: DiffusionParts, folder: Path) -> None:
    import diffusers
    from safetensors.torch import save_file

    latent = parts.autoencoder is not None
    kind = diffusers.DDIMScheduler if latent else diffusers.DDPMScheduler
    scheduler = kind.from_config(parts.scheduler)
    if not latent and type(parts.network).__name__ == "UNet2DModel":
        pipeline: Any = diffusers.DDPMPipeline(parts.network, scheduler)
        pipeline.save_pretrained(folder)
    else:
        parts.network.save_pretrained(folder / _network_folder(parts))
        scheduler.save_pretrained(folder / "scheduler")
    if parts.autoencoder is not None:
        parts.autoencoder.save_pretrained(folder / _autoencoder_folder(parts))
    if parts.context is not None:
        (folder / CONTEXT).parent.mkdir()
        save_file({"table": parts.context.table.detach().cpu().contiguous()}, folder / CONTEXT)
    note = {
        "num_classes": parts.num_classes,
        "null_class": parts.null_class,
        "image_size": parts.image_size,
        "patch": parts.patch,
    }
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


# Pipelines of latent models by network and autoencoder; models with prompts are Stable Diffusion.
_PIPELINES = {
    ("DiTTransformer2DModel", "AutoencoderKL"): "DiTPipeline",
    ("UNet2DModel", "VQModel"): "LDMPipeline",
}


def _write_index(parts: DiffusionParts, folder: Path) -> None:
    """Write the index by which diffusers finds a pipeline for the parts, if it has one."""
    import diffusers

    kinds = (type(parts.network).__name__, type(parts.autoencoder).__name__)
    index: dict[str, Any] = {"scheduler": ["diffusers", "DDIMScheduler"]}
    index[_network_folder(parts)] = ["diffusers", kinds[0]]
    index[_autoencoder_folder(parts)] = ["diffusers", kinds[1]]
    pipeline = _PIPELINES.get(kinds)
    if (folder / TEXT_ENCODER).is_dir() and (folder / TOKENIZER).is_dir():
        pipeline = "StableDiffusionPipeline"
        index |= {
            TEXT_ENCODER: ["transformers", "CLIPTextModel"],
            TOKENIZER: ["transformers", "CLIPTokenizer"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
    if parts.autoencoder is None or pipeline is None:
        return
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **index}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _network_folder(parts: DiffusionParts) -> str:
    return "transformer" if type(parts.network).__name__ == "DiTTransformer2DModel" else "unet"


def _autoencoder_folder(parts: DiffusionParts) -> str:
    return "vqvae" if type(parts.autoencoder).__name__ == "VQModel" else "vae"
