"""Reads untrusted weight files: tensors are loaded, code is not run.

Weights of research programs are pickles. Only tensors and plain data are loaded from them, with
one exception: Lightning files contain the classes of their callbacks, and an empty class replaces
each of those.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguard.storage.weights import load_tensors, refused, state_dict_of

_CALLBACK = re.compile(r"(pytorch_lightning|lightning\.pytorch)\.callbacks\.[\w.]+")


class InertCallback:
    """Empty replacement for a Lightning callback in a file; it accepts any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state


def read_checkpoint_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a file; see `read_foreign`.

    Returns:
        Name -> tensor on the CPU, without a prefix that all names share (`module.`).
    """
    return state_dict_of(read_foreign(path), Path(path))


def read_foreign(path: str | Path) -> dict[str, Any]:
    """Read a file of weights without running any of its code.

    Args:
        path: A `.safetensors` file or one written by `torch.save`: a state dict, a dictionary
            with one under `state_dict`, or a list that starts with one.

    Returns:
        The file's content, with tensors on the CPU.

    Raises:
        UserError: For a file that is missing or truncated, or that names any class or function
            except tensors and Lightning's callbacks.
    """
    path = Path(path)
    stubs: list[Any] = []
    for name in _foreign_names(path):
        if not _CALLBACK.fullmatch(name):
            raise refused(path, name)
        stubs.append((InertCallback, name))
    with torch.serialization.safe_globals(stubs):
        return load_tensors(path)


def _foreign_names(path: Path) -> list[str]:
    """Classes and functions in a pickle that are not known to be harmless.

    The pickle is only parsed, not run. If it cannot be parsed (another format, a damaged file),
    the result is empty, and `load_tensors` decides.
    """
    if not path.is_file():  # opening a named pipe would block
        return []
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:
        # Damaged archives raise many types.
        return []
