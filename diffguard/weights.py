"""Reading weight files of strangers: tensors and plain data, nothing that runs code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.errors import UserError

# What training programs call the state dict beside the rest that they keep.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# What they leave in front of the names of a network's tensors.
_PREFIXES = ("classifier.network.", "network.", "model.", "module.", "net.")


def load_tensors(path: Path) -> dict[str, Any]:
    """Load a file of tensors onto the CPU.

    Args:
        path: A `.safetensors` file, the `.safetensors.index.json` of several, or a file written by
            `torch.save`.

    Returns:
        What the file holds: a state dict, or a dictionary around one.

    Raises:
        UserError: Where the file is missing, damaged, or holds more than tensors and plain data.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: expected a file of weights, check the path")
    try:
        if path.name.endswith(".safetensors.index.json"):
            return _load_shards(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it is damaged, or holds more than tensors and plain data, which "
            "could run code when loaded; expected a checkpoint that weights_only=True accepts"
        ) from error
    except Exception as error:
        # Damaged archives surface as many types (EOFError, RuntimeError, SafetensorError, …).
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} cannot be read as a file of weights ({reason}): is it complete?"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, expected a dictionary of tensors"
        )
    return content


def _load_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of the safetensors files that an index beside them names."""
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index} names {name!r}, expected .safetensors files beside it")
        tensors |= load_tensors(index.parent / name)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise UserError(f"the files that {index} names lack {missing[0]}: are they complete?")
    return tensors


def tensors_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in a loaded file, under the names that it has there.

    Raises:
        UserError: Where the file holds no tensors.
    """
    inner: Any = content
    while isinstance(inner, Mapping):
        wrapped = next((key for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if wrapped is None:
            break
        inner = inner[wrapped]
    tensors = {
        str(name): value
        for name, value in (inner.items() if isinstance(inner, Mapping) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} holds no tensors: expected the state dict of a network")
    return tensors


def state_dict_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The network's tensors in a loaded file, without wrappers and a prefix that all names share.

    Raises:
        UserError: Where the file holds no tensors.
    """
    tensors = tensors_of(content, path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def fill(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly.

    Raises:
        UserError: Naming the first tensors that are missing, left over or of another shape.
    """
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra:
        raise UserError(
            f"the weights do not fit the {what}: "
            f"{len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(extra)} are left over ({', '.join(extra[:3])})"
        )
    if shapes:
        name = shapes[0]
        raise UserError(
            f"the weights do not fit the {what}: {name} has shape {tuple(state[name].shape)}, "
            f"expected {tuple(own[name].shape)}"
        )
    network.load_state_dict(state)
