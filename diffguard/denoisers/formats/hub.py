"""Downloads a model from the Hugging Face hub if a config names one."""

from __future__ import annotations

import re
from pathlib import Path

from diffguard.errors import UserError, reason_of

_PARTS = ("unet", "transformer", "vae", "vqvae", "scheduler", "class_context", "text_encoder")
_ID = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# Copies of the same weights in half precision, and those before averaging.
_COPIES = ["*.fp16.*", "*.non_ema.*"]


def check_name(name: str, key: str = "") -> None:
    """Refuse a name that is neither a path that is there nor a hub id; nothing is fetched.

    Args:
        name: Path or hub id of a model.
        key: The config's key that holds it, for the message.

    Raises:
        UserError: For such a name.
    """
    if not Path(name).expanduser().exists():
        _hub_id(name, f"{key} " if key else "")


def _hub_id(name: str, prefix: str = "") -> re.Match[str]:
    match = _ID.fullmatch(name)
    if match is None or Path(name).suffix in _FILES:
        raise UserError(
            f"{prefix}{name} does not exist: expected a checkpoint file, a folder of diffusers or "
            "a hub id"
        )
    return match


def fetch(name: str) -> Path:
    """Download the files of a model that this project reads, or take them from the cache.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Returns:
        The folder that it lies in.

    Raises:
        UserError: For a name that is not a hub id, or if the hub refuses it.
    """
    match, wanted = _hub_id(name), _wanted()
    try:
        folder = _download(match, wanted)
        lacking = [part for part in _PARTS if _lacks_weights(folder / part)]
        if lacking:
            # Older models are there as `.bin` only, which is read as tensors and nothing else.
            folder = _download(match, [*wanted, *(f"{part}/*.bin" for part in lacking)])
    except Exception as error:
        # The hub's client raises its own types, and those of its network library.
        raise UserError(
            f"{name} is no file or folder here, and the hub did not give it ({reason_of(error)}): "
            "check the name and the connection, or give a local folder"
        ) from error
    return folder


def cached(name: str) -> Path:
    """The cached files of a model; the hub is not contacted.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        UserError: For a name that is not a hub id, or a model that is not in the cache.
    """
    match = _ID.fullmatch(name)
    try:
        if match is not None:
            return _download(match, _wanted(), local_files_only=True)
    except Exception as error:
        # The hub's client raises its own types.
        raise UserError(
            f"the detector refers to the diffusion model {name} of the Hugging Face hub, which was "
            f"not fetched before: if you trust it, say so with --diffusion_model {name}"
        ) from error
    raise UserError(
        f"the detector refers to the diffusion model {name}, which does not exist: name the place "
        "it was moved to with --diffusion_model"
    )


def local_folder(path: str | Path) -> Path:
    """A folder of diffusers: the local one, or what the hub has under that name."""
    return Path(path) if Path(path).is_dir() else fetch(str(path))


def _wanted() -> list[str]:
    """Patterns of the files that this project reads, weights of older models apart."""
    wanted = ["*.json", "*.safetensors", "tokenizer/*"]
    return wanted + [f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "safetensors")]


def _download(match: re.Match[str], wanted: list[str], *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            match.group(1),
            revision=match.group(2),
            allow_patterns=wanted,
            ignore_patterns=_COPIES,
            local_files_only=local_files_only,
        )
    )


def _lacks_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))
