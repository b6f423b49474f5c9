"""A pre-trained diffusion model that a checkpoint refers to instead of holding a copy of it.

The reference is where the model lies, what was said of it, and a hash of its files, so that no
other model takes its place unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffguard.denoisers.build import DiffusionParts
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.folder import AUTOENCODER_FOLDERS, CONTEXT, NETWORK_FOLDERS
from diffguard.denoisers.formats.hub import cached, fetch
from diffguard.errors import UserError

# Above this many weights a model is referred to, unless the config says otherwise.
LARGE = 100_000_000


def refer(path: str, options: CheckpointOptions, folder: Path) -> dict[str, Any]:
    """A reference to a model, as plain data.

    Args:
        path: Checkpoint file, folder of diffusers or hub id.
        options: What it was loaded with.
        folder: Folder of the file that will hold the reference. A model inside it is named
            relative to it, so that both can be moved together.
    """
    place, inside = Path(path), False
    if place.exists():
        inside = place.resolve().is_relative_to(folder.resolve())
        place = place.resolve()
        path = str(place.relative_to(folder.resolve()) if inside else place)
    # What is made of the names, the checkpoint holds itself.
    kept = {k: v for k, v in asdict(options).items() if k not in ("class_names", "prompt")}
    return {
        "path": path,
        "inside": inside,
        "options": kept,
        "sha256": model_hash(place if place.exists() else fetch(path)),
    }


def load_reference(
    reference: Mapping[str, Any], folder: Path, instead: str | None = None
) -> DiffusionParts:
    """Load the model that a reference names.

    Args:
        reference: What `refer` gave.
        folder: Folder of the file that holds it.
        instead: Where the model lies now, if it was moved.

    Raises:
        UserError: If the model is not there, or is not the one that was referred to.
    """
    inside: bool = reference["inside"]
    if inside and (Path(reference["path"]).is_absolute() or ".." in Path(reference["path"]).parts):
        raise UserError(
            f"the detector refers to a diffusion model beside it at {reference['path']}, which "
            "lies elsewhere: name its place with --diffusion_model"
        )
    path = instead or str(folder / reference["path"] if inside else reference["path"])
    place = Path(path)
    if not place.exists():
        if instead is None and (inside or place.is_absolute()):
            raise UserError(
                f"{path} does not exist: the detector refers to the diffusion model there; name "
                "the place it was moved to with --diffusion_model"
            )
        # A file may name a model of the hub; only the user may have it fetched.
        place = fetch(path) if instead else cached(path)
    found = model_hash(place)
    if found != reference["sha256"]:
        raise UserError(
            f"{path} is not the diffusion model that the detector was calibrated with (SHA-256 "
            f"{found[:12]}…, expected {reference['sha256'][:12]}…): name that one with "
            "--diffusion_model, or calibrate again"
        )
    return load_diffusion(place, CheckpointOptions(**reference["options"]))


def model_hash(path: Path) -> str:
    """SHA-256 of a checkpoint file, or over the files of a folder that define the network."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = (*NETWORK_FOLDERS, *AUTOENCODER_FOLDERS, Path(CONTEXT).parent.name, "scheduler")
    files = [one for part in parts for one in sorted((path / part).glob("*"))]
    files += sorted(path.glob("*.json")) + sorted(path.glob("*.safetensors"))
    total = hashlib.sha256()
    for one in files:
        if one.is_file():
            total.update(f"{one.relative_to(path)}\0{model_hash(one)}\n".encode())
    return total.hexdigest()
