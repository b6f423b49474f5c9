"""A pre-trained diffusion model that a checkpoint refers to instead of storing a copy.

The reference consists of the model's location, its options, and a hash of its files, so that a
different model in its place is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.folder import AUTOENCODER_FOLDERS, CONTEXT, NETWORK_FOLDERS
from diffguard.denoisers.formats.hub import cached, fetch
from diffguard.denoisers.formats.options import ModelSource
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError
from diffguard.storage.files import file_hash
from diffguard.storage.paths import user_path

# Larger models are referred to by default.
LARGE = 100_000_000


def refer(path: str, options: CheckpointOptions, folder: Path) -> dict[str, Any]:
    """A reference to a model, as plain data.

    Args:
        path: Checkpoint file, diffusers folder or hub id.
        options: The options it was loaded with.
        folder: Folder of the file that will store the reference. The path of a model inside it is
            relative, so that both can be moved together.
    """
    place, inside = Path(path), False
    if place.exists():
        inside = place.resolve().is_relative_to(folder.resolve())
        place = place.resolve()
        path = str(place.relative_to(folder.resolve()) if inside else place)
    # The checkpoint stores the encoded names itself.
    plain = {k: v for k, v in asdict(options).items() if k not in ("class_names", "prompt")}
    return {
        "path": path,
        "inside": inside,
        "options": plain,
        "sha256": model_hash(place if place.exists() else cached(path)),
    }


def load_reference(
    reference: Mapping[str, Any], folder: Path, instead: str | None = None
) -> DiffusionParts:
    """Load the model that a reference names.

    Args:
        reference: Result of `refer`.
        folder: Folder of the file that stores it.
        instead: The model's new location, if it was moved.

    Raises:
        UserError: If the model is missing, or is a different one.
    """
    inside: bool = reference["inside"]
    if inside and (Path(reference["path"]).is_absolute() or ".." in Path(reference["path"]).parts):
        raise UserError(
            f"the detector refers to a diffusion model beside it at {reference['path']}, which "
            "is outside its folder: give its location as `diffusion` (--diffusion_model)"
        )
    path = source_of(reference, folder, instead).path
    place = user_path(path, "the diffusion model of the detector")
    if not place.exists():
        if instead is None and (inside or place.is_absolute()):
            raise UserError(
                f"{path} does not exist: the detector refers to the diffusion model there; give "
                "its new location as `diffusion` (--diffusion_model)"
            )
        # A file may name a hub model, but only the user may start a download.
        place = fetch(path) if instead else cached(path)
    digest = model_hash(place)
    if digest != reference["sha256"]:
        raise UserError(
            f"{path} is not the diffusion model that the detector was calibrated with (SHA-256 "
            f"{digest[:12]}…, expected {reference['sha256'][:12]}…): give that one as "
            "`diffusion` (--diffusion_model), or calibrate again"
        )
    return load_diffusion(place, CheckpointOptions(**reference["options"]))


def source_of(
    reference: Mapping[str, Any], folder: Path, instead: str | None = None
) -> ModelSource:
    """The source of a model that was loaded by `load_reference` with the same arguments."""
    path = str(folder / reference["path"] if reference["inside"] else reference["path"])
    return ModelSource(instead or path, CheckpointOptions(**reference["options"]))


def model_hash(path: Path) -> str:
    """SHA-256 of a checkpoint file, or of the files in a folder that define the network."""
    if path.is_file():
        return file_hash(path)
    parts = (*NETWORK_FOLDERS, *AUTOENCODER_FOLDERS, Path(CONTEXT).parent.name, "scheduler")
    files = [entry for part in parts for entry in sorted((path / part).glob("*"))]
    files += sorted(path.glob("*.json")) + sorted(path.glob("*.safetensors"))
    total = hashlib.sha256()
    for entry in files:
        if entry.is_file():
            total.update(f"{entry.relative_to(path)}\0{model_hash(entry)}\n".encode())
    return total.hexdigest()
