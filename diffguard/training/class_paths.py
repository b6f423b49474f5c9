"""Callbacks and loggers that the command line names by class path.

An entry is plain data, `{class_path: my_module.MyCallback, init_args: {…}}`. Only a process that
trains or logs imports the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from diffguard.errors import UserError, reason_of
from diffguard.storage.trust import import_path

ClassEntry = dict[str, str | dict | None]
Kind = TypeVar("Kind")

_EXPECTED = "expected {class_path: my_module.MyClass, init_args: {name: value}}"


def check_entry(entry: Mapping[str, Any], key: str) -> None:
    """Check the form of an entry without importing its class.

    Args:
        entry: The entry.
        key: Its key in the config, for the error line.

    Raises:
        UserError: If a key is unknown or a value has a wrong type.
    """
    for name in entry:
        if name not in ("class_path", "init_args"):
            raise UserError(f"{key} has an entry with the key {name!r}: {_EXPECTED}")
    if not isinstance(entry.get("class_path"), str):
        raise UserError(f"{key} has an entry without a class_path: {_EXPECTED}")
    arguments = entry.get("init_args")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UserError(f"{key} has an entry with the init_args {arguments!r}: {_EXPECTED}")


def class_of(entry: Mapping[str, Any], kind: type[Kind], key: str) -> type[Kind]:
    """Import the class of an entry and check that it takes the arguments.

    Args:
        entry: The entry; its form has been checked.
        kind: Base class of the class.
        key: The entry's key in the config, for the error line.

    Raises:
        UserError: If the class cannot be imported, has another base class, or does not take the
            arguments.
    """
    path = entry["class_path"]
    try:
        cls = import_path(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise UserError(
            f"{key}: {path} is not a {kind.__name__}: expected a subclass of Lightning's "
            f"{kind.__name__}"
        )
    try:
        inspect.signature(cls).bind(**_arguments(entry))
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: init_args of {path}: {reason_of(error)}") from error
    return cls


def build(entry: Mapping[str, Any], kind: type[Kind], key: str) -> Kind:
    """Build the object of an entry; see `class_of`.

    Raises:
        UserError: If the class cannot be imported, or refuses the arguments.
    """
    cls = class_of(entry, kind, key)
    try:
        return cls(**_arguments(entry))
    except Exception as error:
        # Third-party constructors may raise any exception.
        raise UserError(
            f"{key}: {entry['class_path']} rejects its init_args: {reason_of(error)}"
        ) from error


def _arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entry.get("init_args") or {})
