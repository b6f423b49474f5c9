"""What a folder of scores belongs to: `manifest.json`, compared before anything is added to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.files import create_file, replace_file
from diffguard.storage.reading import read_json

MACHINE = "machine"
# Of the files in a folder of scores; a run of another format is not continued.
FORMAT = 2
_SHOWN = 40
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
    """What the project reads of a manifest; the rest is compared and no more."""

    format: int
    groups: dict[str, Literal["id", "near", "far"]]
    sets: dict[str, _Set]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    batch_size_asked: int | str
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
    """What the rows of the run in a folder are sealed with; empty without a manifest."""
    manifest = read_manifest(folder)
    return b"" if manifest is None else hashlib.sha256(_text(manifest).encode()).digest()


def open_manifest(folder: Path, expected: Mapping[str, Any], *, finished: bool = False) -> None:
    """Write the manifest of a new run, or check that a run continues its own.

    The first process of a run calls this, before any of them writes a row. Several runs may do so
    at once, each for its part of the images.

    Args:
        folder: The evaluation folder; made where it is missing.
        expected: What the scores depend on, as plain JSON values: hashes of checkpoint, config and
            image lists, score names, under `"sets"` a mapping from set name to at least
            `{"n": number of images}`, in the order in which the merged table shall list the sets,
            and under `"machine"` what decides on the last bits alone.
        finished: Whether no row will be added: it does not matter then on which machine.

    Raises:
        UserError: If the folder belongs to something else, naming each difference, or holds scores
            of which nobody knows where they come from.
    """
    check_manifest(folder, expected, finished=finished)
    with create_file(Path(folder) / "manifest.json") as path:
        path.write_text(_text(expected), encoding="utf-8")
    # Another launch may have been faster.
    check_manifest(folder, expected, finished=finished)


def check_manifest(folder: Path, expected: Mapping[str, Any], *, finished: bool = False) -> None:
    """Check that a folder holds no scores yet, or those of this very run; see `open_manifest`.

    Only what `expected` names is compared.
    """
    folder = Path(folder)
    stored = read_manifest(folder)
    if stored is None:
        if any(folder.glob("scores/rank-*.csv")):
            raise UserError(
                f"{folder} holds score tables but no manifest.json, so what they belong to is "
                "unknown: choose another output folder or delete this one"
            )
        return
    ignored = {MACHINE} if finished else set()
    now = json.loads(_text({key: expected[key] for key in expected if key not in ignored}))
    differences = _differences({key: stored[key] for key in stored if key in now}, now)
    if differences:
        raise UserError(
            f"the score tables in {folder} belong to another run: {'; '.join(differences)}; "
            "restore these settings to continue it, or name another folder with --output"
        )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that holds no score yet, over an earlier one.

    Args:
        folder: The evaluation folder.
        manifest: As `open_manifest` takes it.
    """
    with replace_file(Path(folder) / "manifest.json") as path:
        path.write_text(_text(manifest), encoding="utf-8")


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, allow_nan=False) + "\n"


def _differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    stored, now = _flatten(stored), _flatten(now)
    keys = [*stored, *(key for key in now if key not in stored)]
    pairs = {key: (stored.get(key, _MISSING), now.get(key, _MISSING)) for key in keys}
    texts = [f"{key} was {_show(a)}, is {_show(b)}" for key, (a, b) in pairs.items() if a != b]
    if not texts and list(stored) != list(now):
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
