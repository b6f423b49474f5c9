"""Reading the files of others: tensors come in, code does not.

Weights of research programs are pickles. Only tensors and plain data are taken from them, with
one exception: Lightning files are keyed by the classes of their callbacks, and an empty class
stands in for each of those.
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
    """What a Lightning callback in a file becomes: nothing, whatever it is built with."""

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
    """Read a file of weights without running anything of it.

    Args:
        path: A `.safetensors` file or one written by `torch.save`: a state dict, a dictionary
            with one under `state_dict`, or a list that begins with one.

    Returns:
        What the file holds, tensors on the CPU.

    Raises:
        UserError: For a file that is missing, cut short, or that names any class or function
            apart from tensors and Lightning's callbacks.
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
    """Classes and functions that a pickle names and that are not known to be harmless.

    The pickle is only taken apart, not run. What cannot be taken apart (another format, a damaged
    file) gives none: `load_tensors` judges it.
    """
    if not path.is_file():  # a named pipe would be waited for
        return []
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:
        # Damaged archives surface as many types.
        return []
