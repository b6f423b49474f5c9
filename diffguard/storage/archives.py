"""Rejects files of `torch.save` that would expand in memory, before and after reading."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguard.errors import UserError

# Several names may share weights, so the tensors may exceed their file, but at most this often.
_MOST_SHARED = 4
_FREE_BYTES = 2**26
_LARGEST_PICKLE = 2**28
_DEEPEST = 100
_MOST_VALUES = 1_000_000
_RESERVES = ("bytearray", "builtins bytearray", "__builtin__ bytearray")


def check_archive(path: Path) -> None:
    """Refuse an archive whose members are compressed, or whose pickle would reserve memory.

    `torch.save` never compresses; a compressed archive of some MB may hold many GB.

    Args:
        path: Any file; a file that is not an archive is skipped.

    Raises:
        UserError: For such an archive.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{path} is a compressed archive, which may grow without bounds: expected a "
                    "file as torch.save writes it"
                )
            if member.filename.endswith("/data.pkl"):
                if member.file_size > _LARGEST_PICKLE:
                    raise UserError(f"{path} holds too many values in addition to its tensors")
                _check_pickle(path, archive.read(member))


def _check_pickle(path: Path, content: bytes) -> None:
    """Refuse `bytearray`: torch permits it, and it reserves as much memory as the file requests."""
    try:
        reserves = any(argument in _RESERVES for _, argument, _ in pickletools.genops(content))
    except Exception:
        # A pickle that cannot be parsed is refused by torch too.
        return
    if reserves:
        raise UserError(
            f"{path} was refused: it asks for bytearray, expected tensors and plain data"
        )


def check_tensors(content: Any, path: Path) -> None:
    """Refuse tensors without values, and tensors that need more memory than their file holds.

    Args:
        content: The file's content: tensors in mappings and lists.
        path: The file, for its size and for the error line.

    Raises:
        UserError: Names the first wrong tensor.
    """
    total = 0
    allowed = _MOST_SHARED * path.stat().st_size + _FREE_BYTES
    for name, value in _tensors(content, path):
        if value.layout != torch.strided or value.is_meta or value.is_nested or value.is_quantized:
            raise UserError(
                f"{path}: tensor {name} is {_kind(value)}, expected dense "
                f"{str(value.dtype).removeprefix('torch.')} with values: save the network's "
                "state_dict() as it is after training"
            )
        if value.is_neg() or value.is_conj():
            raise UserError(
                f"{path}: tensor {name} is stored as a lazily negated or conjugated view: save "
                "tensor.resolve_neg() and tensor.resolve_conj()"
            )
        total += value.numel() * value.element_size()
        if total > allowed:
            raise UserError(
                f"{path}: its tensors, up to {name}, would take {total:,} bytes, more than the "
                "file holds: expected tensors that are stored in full"
            )


def _kind(value: Tensor) -> str:
    if value.is_meta:
        return "on the meta device"
    layout = "nested" if value.is_nested else "quantized" if value.is_quantized else "sparse"
    return f"{layout} {str(value.dtype).removeprefix('torch.')}"


def _tensors(content: Any, path: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors with their names; a value that occurs several times is counted each time."""
    waiting: list[tuple[str, Any, int]] = [("?", content, 0)]
    values = 0
    while waiting:
        name, value, depth = waiting.pop()
        values += 1
        if depth > _DEEPEST or values > _MOST_VALUES:
            raise UserError(
                f"{path} is nested too deeply or holds too many values: expected tensors and "
                "plain data"
            )
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            waiting += [(str(key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(name, item, depth + 1) for item in value]
