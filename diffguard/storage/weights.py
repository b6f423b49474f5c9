"""Reads untrusted weight files: tensors and plain data, nothing that runs code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from diffguard.errors import UserError, reason_of
from diffguard.storage.archives import check_archive, check_tensors
from diffguard.storage.paths import kind_of
from diffguard.storage.reading import read_text
from diffguard.storage.schema import parse_json

# Keys under which training programs store the state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# Prefixes that they add to the names of tensors; the last one is from `torch.compile`.
_PREFIXES = ("classifier.network.", "network.", "model.", "module.", "net.", "_orig_mod.")
# A counter that `torch.optim.swa_utils.AveragedModel` stores with the network.
_COUNTER = "n_averaged"
# How torch reports a class or function in a file that it refuses.
_REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")


class _Index(TypedDict):
    """The part of a `.safetensors.index.json` that is read."""

    weight_map: Annotated[dict[str, str], Field(min_length=1, max_length=1_000_000)]


def load_tensors(path: Path) -> dict[str, Any]:
    """Load a file of tensors onto the CPU.

    Args:
        path: A `.safetensors` file, the `.safetensors.index.json` of several, or a file written by
            `torch.save`.

    Returns:
        The file's content: a state dict, or a dictionary that contains one. For a list, such as
        DiffOOD's `train.ckpt`, its first entry, the network; the optimizer's state follows it.

    Raises:
        UserError: If the file is missing or damaged, or holds more than tensors and plain data.
    """
    if not path.is_file():
        kind = kind_of(path)
        what = "does not exist" if kind == "nothing" else f"is {kind}"
        raise UserError(f"{path} {what}: expected a file of weights, check the path")
    try:
        if path.name.endswith(".safetensors.index.json"):
            return _load_shards(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        check_archive(path)
        with warnings.catch_warnings():
            # torch repeats its warnings about an unusual pickle in the error.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        match = _REFUSED_NAME.search(str(error))
        raise refused(path, match.group(1) if match else None) from error
    except Exception as error:
        # Damaged archives raise many types (EOFError, RuntimeError, SafetensorError, …).
        raise UserError(
            f"{path} cannot be read as a file of weights ({reason_of(error)}): is it complete?"
        ) from error
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, expected a dictionary of tensors"
        )
    check_tensors(content, path)
    return content


def refused(path: Path, name: str | None) -> UserError:
    """The error for a file that could run code; `name` is the class or function in it."""
    if name is None:
        return UserError(
            f"{path} was refused: it is damaged, or holds more than tensors and plain data, which "
            "could run code when loaded; expected a checkpoint that weights_only=True accepts"
        )
    return UserError(
        f"{path} was refused: it asks for {name}, which could run code when loaded; expected "
        "tensors only, such as torch.save(model.state_dict(), path) writes"
    )


def _load_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of the safetensors files listed in an index next to them."""
    weight_map = parse_json(read_text(index), _Index, str(index))["weight_map"]
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
    """The state dict in a loaded file, with its original names.

    Raises:
        UserError: If the file holds no tensors.
    """
    inner: Any = content
    while isinstance(inner, Mapping):
        wrapped = next((key for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if wrapped is None:
            break
        inner = inner[wrapped]
    tensors = _direct_tensors(inner)
    if tensors:
        return tensors
    below = dict(_tensors_below(inner))
    if len(below) == 1:
        return next(iter(below.values()))
    if below:
        names = ", ".join([*below][:5])
        raise UserError(f"{path} holds several state dicts ({names}): keep one of them in the file")
    raise UserError(f"{path} holds no tensors: expected the state dict of a network")


def _direct_tensors(values: Any) -> dict[str, Tensor]:
    pairs = values.items() if isinstance(values, Mapping) else ()
    return {str(name): value for name, value in pairs if isinstance(value, Tensor)}


def _tensors_below(values: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The mappings that contain tensors, by their keys; an optimizer's state is skipped."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if not str(key).startswith("optim"):
            if tensors := _direct_tensors(value):
                yield f"{place}{key}", tensors
            else:
                yield from _tensors_below(value, f"{place}{key}.")


def state_dict_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The network's tensors in a loaded file, without wrappers and common prefixes.

    Raises:
        UserError: If the file holds no tensors.
    """
    *_, tensors = without_prefixes(tensors_of(content, path))
    return tensors


def without_prefixes(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors unchanged, then with one training prefix after another removed."""
    tensors = dict(tensors)
    if any(name.startswith("module.") for name in tensors):
        tensors.pop(_COUNTER, None)
    yield tensors
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        yield tensors
