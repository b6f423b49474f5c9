"""Loads one model of a diffusers folder: its `config.json` and its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffguard.denoisers.networks import accepted_config, module_class
from diffguard.errors import UserError, reason_of
from diffguard.storage.network_files import check_files
from diffguard.storage.reading import read_text
from diffguard.storage.state_dict import check_values

_WEIGHTS = "diffusion_pytorch_model"


def load_model(folder: Path, classes: tuple[str, ...]) -> Any:
    """Load a network or an autoencoder from its folder, in evaluation mode and float32.

    Args:
        folder: A folder with `config.json` and weights.
        classes: Names of the classes that are accepted.

    Raises:
        UserError: If a file is missing or damaged, the class is another one, or the weights do not
            match the config.
    """
    config = read_config(folder / "config.json")
    name = config.get("_class_name")
    if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        # Folders that are older than the class of DiT use this name.
        name = "DiTTransformer2DModel"
    if name not in classes:
        raise UserError(
            f"{folder.name}/config.json names the class {name!r}, expected {', '.join(classes)}"
        )
    _check_conditions(config)
    cls = module_class(name, classes)
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder.name} is quantized: expected weights in float32, float16 or bf16")
    files = [path for path in folder.glob(f"{_WEIGHTS}*") if path.is_file()]
    shape = accepted_config(cls, config)
    check_files(lambda: cls.from_config(shape), files, folder.name)
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
                    f"the tensors of {folder.name} begin with {prefix!r}, which training added: "
                    "remove it from their names"
                )
            raise UserError(f"{folder.name} has {kind} tensors ({first}): is it complete?")
    for name, value in model.state_dict(keep_vars=True).items():
        check_values(f"{folder.name}.{name}", value, value)
    return model.eval()


def _all_have(report: Any, prefix: str) -> bool:
    names = [str(key) for key in report["unexpected_keys"]]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _variant(folder: Path) -> str | None:
    """The variant of the weights to read, as in `….fp16.safetensors`; None for plain weights."""
    names = [path.name.removeprefix(f"{_WEIGHTS}.") for path in folder.glob(f"{_WEIGHTS}.*")]
    kinds = [name.split("-")[0].split(".") for name in names]
    plain = ("safetensors", "bin")
    variants = sorted({kind[0] for kind in kinds if kind[0] not in plain})
    if not variants or any(kind[0] in plain for kind in kinds):
        return None
    if any(path.name.startswith(f"{_WEIGHTS}-0") for path in folder.glob(f"{_WEIGHTS}-*")):
        return None
    return "fp16" if "fp16" in variants else variants[0]


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON file of a diffusers folder.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        # Configs of diffusers may contain infinities, which `read_json` refuses.
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error)}): expected a complete diffusers folder"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} contains no settings: expected a complete diffusers folder")
    return content


def _check_conditions(config: Any) -> None:
    kind = config.get("class_embed_type") or config.get("addition_embed_type")
    if kind not in (None, "timestep") or config.get("encoder_hid_dim_type"):
        raise UserError(
            f"the network needs more than a timestep and a label ({kind or 'image features'}, like "
            "Stable Diffusion XL): expected class labels or one text encoder"
        )
