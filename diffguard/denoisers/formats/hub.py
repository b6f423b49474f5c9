"""Downloads a model from the Hugging Face hub if a config names one."""

from __future__ import annotations

import re
from pathlib import Path

from diffguard.errors import UserError, reason_of

_PARTS = ("unet", "transformer", "vae", "vqvae", "scheduler", "class_context", "text_encoder")
_ID = re.compile(r"(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?")
_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# Copies of the weights in half precision, and weights before averaging.
_COPIES = ["*.fp16.*", "*.non_ema.*"]


def check_name(name: str, key: str = "") -> None:
    """Refuse a name that is neither an existing path nor a hub id; nothing is fetched.

    Args:
        name: Path or hub id of a model.
        key: Its key in the config, for the message.

    Raises:
        UserError: If the name is neither.
    """
    if not Path(name).expanduser().exists():
        _hub_id(name, f"{key} " if key else "")


def _hub_id(name: str, prefix: str = "") -> re.Match[str]:
    match = _ID.fullmatch(name)
    if match is None or Path(name).suffix in _FILES:
        raise UserError(
            f"{prefix}{name} does not exist: expected a checkpoint file, a diffusers folder or a "
            "hub id"
        )
    return match


def fetch(name: str) -> Path:
    """Download the files of a model that this project reads, or take them from the cache.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Returns:
        The folder of the files.

    Raises:
        UserError: If the name is not a hub id, or the hub does not provide the model.
    """
    match, patterns = _hub_id(name), _patterns()
    try:
        folder = _download(match, patterns)
        lacking = [part for part in _PARTS if _lacks_weights(folder / part)]
        if lacking:
            # Older models have only `.bin` files, whose tensors alone are read.
            folder = _download(match, [*patterns, *(f"{part}/*.bin" for part in lacking)])
    except Exception as error:
        # The hub's client raises its own types, and those of its network library.
        raise UserError(
            f"{name} is not a local file or folder, and the hub did not provide it "
            f"({reason_of(error)}): check the name and the connection, or give a local folder"
        ) from error
    return folder


def cached(name: str) -> Path:
    """The cached files of a model; the hub is not contacted.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        UserError: If the name is not a hub id, or the model is not in the cache.
    """
    match = _ID.fullmatch(name)
    try:
        if match is not None:
            return _download(match, _patterns(), local_files_only=True)
    except Exception as error:
        # The hub's client raises its own types.
        raise UserError(
            f"the detector refers to the diffusion model {name} of the Hugging Face hub, which is "
            f"not in the cache: if you trust it, fetch it with diffusion={name!r} "
            "(--diffusion_model)"
        ) from error
    raise UserError(
        f"the detector refers to the diffusion model {name}, which does not exist: give its new "
        "path as `diffusion` (--diffusion_model)"
    )


def local_folder(path: str | Path) -> Path:
    """A local diffusers folder, or the downloaded one of a hub id."""
    return Path(path) if Path(path).is_dir() else fetch(str(path))


def _patterns() -> list[str]:
    """Patterns of the files that this project reads, without weights of older models."""
    patterns = ["*.json", "*.safetensors", "tokenizer/*"]
    return patterns + [f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "safetensors")]


def _download(match: re.Match[str], patterns: list[str], *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            match.group(1),
            revision=match.group(2),
            allow_patterns=patterns,
            ignore_patterns=_COPIES,
            local_files_only=local_files_only,
        )
    )


def _lacks_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))
