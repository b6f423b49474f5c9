"""Checks the arguments in a spec from a file: they may only shape a network.

Constructor arguments can be as powerful as code: some of timm's download a URL to a folder, some
read a pickle. A file may therefore set only arguments that the network's class has and that do not
read, download, write or run anything, to numbers, booleans, None, plain words or lists of these.
The user can allow more by name.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import nn

from diffguard.errors import UserError

# Channels, classes, tokens and timesteps are never larger.
LARGEST_NUMBER = 1_000_000
LARGEST_SIDE = 2048
MOST_CLASSES = 100_000
LONGEST_NAME = 500
_LONGEST_LIST = 10_000
_DEEPEST_LIST = 4
_WORD = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_+-]{0,63})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SIDES = {"image_size", "img_size", "sample_size", "input_size"}

# Words in the names of arguments that refer to something outside the network.
_OUTSIDE = {
    *("cache", "checkpoint", "checkpoints", "ckpt", "code", "dir", "dirs", "download", "exec"),
    *("exportable", "file", "filename", "files", "folder", "hub", "load", "path", "paths"),
    *("pretrained", "progress", "quantize", "remote", "repo", "revision", "save", "script"),
    *("scriptable", "trust", "uri", "url", "urls", "weights"),
}
# Names that contain such a word but do shape a network.
_INSIDE = {
    *("drop_path", "drop_path_rate", "drop_path_rates", "drop_path_prob", "init_weights"),
    *("num_paths", "pretrained_window_size", "pretrained_window_sizes", "use_checkpoint"),
}
# Arguments that turn a classifier into something else.
_OTHER_KINDS = {"features_only", "out_indices"}
# Arguments of timm's builders in addition to those of the network's class.
_OF_TIMM = {"bn_momentum", "bn_eps", "bn_tf"}


def consented(trusted: str | Collection[str]) -> tuple[str, ...]:
    """The names that a user allows; a single name may be a plain string."""
    return (trusted,) if isinstance(trusted, str) else tuple(trusted)


def check_arguments(
    what: str, name: str, cls: type[Any], arguments: Mapping[str, Any], *, builder: bool = False
) -> None:
    """Refuse arguments that could do more than shape a network.

    Args:
        what: Kind of network, for the error line, such as `classifier`.
        name: Its name in the spec.
        cls: Its class.
        arguments: The arguments in the spec.
        builder: Whether a library function with arguments of its own builds the network.

    Raises:
        UserError: Names the argument and how to allow it.
    """
    parameters = _of_module(cls) if builder else _of_class(cls)
    for key, value in arguments.items():
        reason = None
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            reason = "which is not the name of an argument"
        elif key not in _INSIDE and _OUTSIDE & set(key.lower().split("_")):
            reason = "which could read, download, write or run something"
        elif key not in parameters - _OTHER_KINDS:
            reason = "which its class does not have"
        else:
            reason = _refusal(key, value)
        if reason is not None:
            raise UserError(
                f"{what} {name} cannot be built: it sets {ascii(key)[1:-1][:64]}, {reason}; "
                "expected arguments of the network itself with numbers, booleans or plain words. "
                f"If you trust where they come from, name {name} in `trusted`, or say so with "
                f"--trusted {name}"
            )


def check_values(what: str, arguments: Mapping[str, Any]) -> None:
    """Refuse values that are not numbers, booleans, None, plain words or lists of these.

    Args:
        what: The part that they configure, for the error line.
        arguments: Names and values; all names are accepted, because libraries ignore unknown ones.

    Raises:
        UserError: For the first value that is refused.
    """
    for key, value in arguments.items():
        reason = _refusal(str(key), value)
        if reason is not None:
            raise UserError(
                f"{what} sets {ascii(str(key))[1:-1][:64]}, {reason}: expected numbers, booleans "
                "or plain words"
            )


def _of_module(cls: type[Any]) -> set[str]:
    """Arguments of a class, and of the functions and layers in its module."""
    names = _of_class(cls) | _OF_TIMM
    module = sys.modules[cls.__module__]
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) and (issubclass(value, nn.Module) or is_dataclass(value)):
            names |= _of_class(value)
        elif inspect.isfunction(value):
            names |= _parameters(value)
    return names


def _of_class(cls: type[Any]) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            names |= _parameters(base.__init__)  # type: ignore[misc]
    return names - {"self", "args", "kwargs"}


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _refusal(key: str, value: Any, depth: int = 0) -> str | None:
    """The reason to refuse a value; None if it is plain."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        most = LARGEST_SIDE if key in _SIDES else LARGEST_NUMBER
        if math.isfinite(value) and abs(value) <= most:
            return None
        return f"whose value is not a number of at most {most}"
    if isinstance(value, str):
        return None if _WORD.fullmatch(value) else "whose value is not a plain word"
    if not isinstance(value, list | tuple):
        return f"whose value is a {type(value).__name__}"
    if len(value) > _LONGEST_LIST or depth >= _DEEPEST_LIST:
        return "whose list is too long or too deep"
    return next(filter(None, (_refusal(key, item, depth + 1) for item in value)), None)
