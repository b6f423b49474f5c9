"""Imports the classes that a file may name."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Collection
from functools import cache
from typing import Any

from torch import nn

from diffguard.errors import UserError, reason_of
from diffguard.storage.arguments import consented

_log = logging.getLogger(__name__)
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_TRUSTED = ("diffguard.", "torchvision.", "timm.", "diffusers.", "torch.nn.")


def import_class(path: str, trusted: str | Collection[str] = ()) -> type[nn.Module]:
    """Import a module class by its path; the log names each class from outside the libraries.

    Raises:
        UserError: For a path that is not trusted, or that does not name an `nn.Module`.
    """
    is_foreign = not path.startswith(_TRUSTED)
    if is_foreign and path not in consented(trusted):
        raise UserError(
            f"class {path!r} is named by a checkpoint but is not part of diffguard, torchvision, "
            "timm, diffusers or torch.nn: if you trust it, name it in `trusted`, or say so with "
            f"--trusted {path}"
        )
    cls = import_path(path)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UserError(f"{path!r} is not a torch.nn.Module class")
    if is_foreign:
        _announce(path)
    return cls


def import_path(path: str) -> Any:
    """Import what a path names; a path from a file needs `import_class`.

    Raises:
        UserError: If there is no such name.
    """
    if not _PATH.fullmatch(path):
        raise UserError(
            f"class {path!r} cannot be imported: expected an import path such as my_module.Net"
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        # Third-party modules may raise any exception on import.
        raise UserError(f"class {path!r} cannot be imported: {reason_of(error)}") from error


@cache
def _announce(path: str) -> None:
    """Report once that third-party code runs."""
    _log.warning("runs the code of class %s, which the config or `trusted` names", path)
