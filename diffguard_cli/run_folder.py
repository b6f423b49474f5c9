"""The folder of a training run: made once, held by one training at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from filelock import FileLock, Timeout

from diffguard.errors import UserError
from diffguard.storage.files import replace_file, write_error
from lightning_modules.connection import first_process_does
from lightning_modules.processes import wait_until

CONFIG = "config.yaml"
_LOCK = ".lock"
# What may change when a run is resumed; the rest has shaped what it already holds.
_FREE = ("stages", "resume", "run_dir", "trainer", "detector", "debug", "config")


@contextmanager
def open_run_folder(
    trainer: pl.Trainer,
    config: Mapping[str, Any],
    name: str,
    resumed: Mapping[str, Any] | None,
) -> Iterator[Path]:
    """Make the folder of a new run, or check that a resumed one is continued as it began.

    The first process makes it and keeps other trainings out of it; the other processes follow. A
    new folder in which nothing was trained is removed after a `UserError`, so that the corrected
    command may name it again.

    Args:
        trainer: A trainer whose processes are connected.
        config: The whole config, plain values only.
        name: Name of the config, for the default folder.
        resumed: The config of the run to resume; None for a new run.

    Yields:
        The folder.

    Raises:
        UserError: If the folder holds another run, is in use, or cannot be written; or if a
            resumed run was given another config.
    """
    held: list[_Held] = []

    def make() -> str:
        held.append(_new(config, name) if resumed is None else _resumed(config, resumed))
        held[0].begin(config)
        return str(held[0].folder)

    try:
        folder = Path(first_process_does(trainer, make))
        wait_until((folder / CONFIG).is_file, folder, trainer.global_rank)
        yield folder
    except UserError:
        if held and resumed is None:
            held[0].remove_if_unused()
        raise
    finally:
        for one in held:
            one.release()


class _Held:
    """A folder that this process alone may train in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / _LOCK, blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{folder} is in use by another training: wait until that ends, or name another "
                "--run_dir"
            ) from None
        except OSError as error:
            raise write_error(folder / _LOCK, error) from error

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the config."""
        kept = {k: v for k, v in config.items() if k not in ("debug", "config", "resume")}
        with replace_file(self.folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")

    def remove_if_unused(self) -> None:
        """Remove a folder that holds a config and nothing else."""
        if _contents(self.folder) == [CONFIG]:
            (self.folder / CONFIG).unlink()
            (self.folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # hidden files of the user stay
                self.folder.rmdir()

    def release(self) -> None:
        """Let others in."""
        self._lock.release()


def _new(config: Mapping[str, Any], name: str) -> _Held:
    if config["run_dir"] is None:
        return _Held(_unique(Path("runs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")))
    folder = Path(config["run_dir"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    _require_empty(folder)
    held = _Held(folder)
    try:
        _require_empty(folder)  # Another training may have come and gone.
    except UserError:
        held.release()
        raise
    return held


def _require_empty(folder: Path) -> None:
    if _contents(folder):
        raise UserError(
            f"{folder} exists already: continue it with --resume {folder}, or name another "
            "--run_dir"
        )


def _unique(folder: Path) -> Path:
    """Make a folder that nobody else has made, with a number behind its name if need be."""
    for number in count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise write_error(place, error) from error
        return place
    raise AssertionError


def _resumed(config: Mapping[str, Any], stored: Mapping[str, Any]) -> _Held:
    for key in config:
        if key not in _FREE and config[key] != stored.get(key):
            raise UserError(
                f"a resumed run keeps its config, but {key} differs from the one in "
                f"{config['resume']}: start a new run to change it"
            )
    folder = Path(config["resume"])
    _refuse_links(folder)
    return _Held(folder)


def _refuse_links(folder: Path) -> None:
    """Refuse a run whose links would let training write outside of its folder."""
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files)):
            # `Path.resolve` fails on a loop of links.
            target = Path(os.path.realpath(path))
            if path.is_symlink() and not target.is_relative_to(inside):
                raise UserError(
                    f"{path} is a link that leads out of the run: put the file or folder itself "
                    "in its place, or start a new run"
                )


def _contents(folder: Path) -> list[str]:
    """What a folder holds, without the lock and what a killed process left half written."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
