"""The run that a folder of scores belongs to: `manifest.json`, compared before rows are added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.files import create_file, replace_file
from diffguard.storage.json_files import read_json

MACHINE = "machine"
# Format of the files in a folder of scores; a run of another format is not continued. From 2 on,
# `contents.npy` identifies images by their pixels; from 3 on, tables of processes hold no derived
# scores.
FORMAT = 3
_SHOWN = 40
_MOST_DIFFERENCES = 8
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
_MISSING = "(absent)"


@with_config(ConfigDict(extra="allow"))
class _Set(TypedDict, total=False):
    n: Annotated[int, Field(ge=0, lt=2**31)]
    fingerprint: str


@with_config(ConfigDict(extra="allow"))
class _Machine(TypedDict, total=False):
    device: str
    threads: Annotated[int, Field(ge=1, le=1024)]


@with_config(ConfigDict(extra="allow"))
class _Manifest(TypedDict, total=False):
    """The entries that the project reads; others are only compared."""

    format: int
    groups: dict[str, Literal["id", "near", "far"]]
    sets: dict[str, _Set]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    batch_size_setting: int | str
    scores: list[str]
    machine: _Machine


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a folder of scores.

    Args:
        folder: The evaluation folder.

    Returns:
        The manifest, or None if the folder has none.

    Raises:
        UserError: If the file is damaged.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest: dict[str, Any] = read_json(path, _Manifest)
    except FileNotFoundError:
        return None
    return manifest


def run_key(folder: Path) -> bytes:
    """The key that seals the rows of the run in a folder; empty without a manifest."""
    manifest = read_manifest(folder)
    return b"" if manifest is None else hashlib.sha256(_text(manifest).encode()).digest()


def open_manifest(
    folder: Path,
    expected: Mapping[str, Any],
    *,
    complete: bool = False,
    upgrade: Upgrade | None = None,
) -> None:
    """Write the manifest of a new run, or check that a run continues its own.

    The first process of a run calls this before any process writes a row. Several runs may call it
    at once, each for its part of the images.

    Args:
        folder: The evaluation folder; created if it is missing.
        expected: Everything that the scores depend on, as plain JSON values: hashes of checkpoint,
            config and image lists; score names; under `"sets"`, set name -> at least
            `{"n": number of images}` in the order of the merged table; and under `"machine"`,
            what changes only the last bits.
        complete: No row will be added, so the machine is not compared.
        upgrade: Gives the manifest of an earlier version present keys before it is compared.

    Raises:
        UserError: If the folder belongs to another run, naming each difference, or contains score
            tables without a manifest.
    """
    check_manifest(folder, expected, complete=complete, upgrade=upgrade)
    with create_file(Path(folder) / "manifest.json") as path:
        path.write_text(_text(expected), encoding="utf-8")
    # Another launch may have written its manifest first.
    check_manifest(folder, expected, complete=complete, upgrade=upgrade)


def check_manifest(
    folder: Path,
    expected: Mapping[str, Any],
    *,
    complete: bool = False,
    upgrade: Upgrade | None = None,
) -> None:
    """Check that a folder is empty or belongs to this run; see `open_manifest`.

    Only the entries of `expected` are compared.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        if any(folder.glob("scores/rank-*.csv")):
            raise UserError(
                f"{folder} holds score tables but no manifest.json, so their run is unknown: "
                "choose another output folder or delete this one"
            )
        return
    manifest = manifest if upgrade is None else upgrade(manifest)
    ignored = {MACHINE} if complete else set()
    now = json.loads(_text({key: expected[key] for key in expected if key not in ignored}))
    differences = _differences({key: manifest[key] for key in manifest if key in now}, now)
    if differences:
        more = len(differences) - _MOST_DIFFERENCES
        shown = differences[:_MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
        raise UserError(
            f"the score tables in {folder} belong to another run: {'; '.join(shown)}; "
            "restore these settings to continue it, or choose another output folder"
        )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a folder without scores; replaces an earlier one.

    Args:
        folder: The evaluation folder.
        manifest: See `expected` of `open_manifest`.
    """
    with replace_file(Path(folder) / "manifest.json") as path:
        path.write_text(_text(manifest), encoding="utf-8")


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, allow_nan=False) + "\n"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, now = _flatten(before), _flatten(now)
    keys = [*before, *(key for key in now if key not in before)]
    pairs = {key: (before.get(key, _MISSING), now.get(key, _MISSING)) for key in keys}
    texts = [f"{key} was {_show(a)}, is {_show(b)}" for key, (a, b) in pairs.items() if a != b]
    if not texts and list(before) != list(now):
        texts = ["the order of the sets or settings differs"]
    return texts


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _show(value: Any) -> str:
    text = value if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
