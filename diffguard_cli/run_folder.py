"""The folder of a training run: created once, used by one training at a time."""

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
from diffguard.processes.agreement import wait_until
from diffguard.storage.files import replace_file, write_error
from lightning_modules.connection import first_process_does

CONFIG = "config.yaml"
_LOCK = ".lock"
# Keys that may change when a run resumes; all others have shaped what the folder holds.
_FREE = ("stages", "resume", "run_dir", "trainer", "detector", "debug", "config")


@contextmanager
def open_run_folder(
    trainer: pl.Trainer,
    config: Mapping[str, Any],
    name: str,
    earlier_config: Mapping[str, Any] | None,
) -> Iterator[Path]:
    """Create the folder of a new run, or check that a resumed run keeps its config.

    The first process creates the folder and locks it against other trainings. After a `UserError`,
    a new folder in which nothing was trained is removed, so that the corrected command can use the
    same name.

    Args:
        trainer: A trainer whose processes are connected.
        config: The whole config, plain values only.
        name: Name of the config, for the default folder.
        earlier_config: The config of the run to resume; None for a new run.

    Yields:
        The folder.

    Raises:
        UserError: If the folder holds another run, is in use, or cannot be written; or if a
            resumed run was given another config.
    """
    locks: list[_LockedFolder] = []

    def create() -> str:
        locks.append(
            _new(config, name) if earlier_config is None else _resumed(config, earlier_config)
        )
        locks[0].begin(config)
        return str(locks[0].folder)

    try:
        folder = Path(first_process_does(trainer, create))
        wait_until((folder / CONFIG).is_file, folder, trainer.global_rank)
        yield folder
    except UserError:
        if locks and earlier_config is None:
            locks[0].remove_if_unused()
        raise
    finally:
        for lock in locks:
            lock.release()


class _LockedFolder:
    """A folder in which only this process may train."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / _LOCK, blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{folder} is in use by another training: wait until it ends, or choose another "
                "--run_dir"
            ) from None
        except OSError as error:
            raise write_error(folder / _LOCK, error) from error

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the config."""
        content = {k: v for k, v in config.items() if k not in ("debug", "config", "resume")}
        with replace_file(self.folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def remove_if_unused(self) -> None:
        """Remove the folder if it holds only a config."""
        if _contents(self.folder) == [CONFIG]:
            (self.folder / CONFIG).unlink()
            (self.folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # hidden files of the user are kept
                self.folder.rmdir()

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()


def _new(config: Mapping[str, Any], name: str) -> _LockedFolder:
    if config["run_dir"] is None:
        return _LockedFolder(_unique(Path("runs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")))
    folder = Path(config["run_dir"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    _require_empty(folder)
    lock = _LockedFolder(folder)
    try:
        _require_empty(folder)  # another training may have used it in the meantime
    except UserError:
        lock.release()
        raise
    return lock


def _require_empty(folder: Path) -> None:
    if _contents(folder):
        raise UserError(
            f"{folder} exists already: continue it with --resume {folder}, or choose another "
            "--run_dir"
        )


def _unique(folder: Path) -> Path:
    """Create a folder that does not exist yet, adding a number to its name if necessary."""
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


def _resumed(config: Mapping[str, Any], earlier_config: Mapping[str, Any]) -> _LockedFolder:
    for key in config:
        if key not in _FREE and config[key] != earlier_config.get(key):
            raise UserError(
                f"a resumed run keeps its config, but {key} differs from the one in "
                f"{config['resume']}: start a new run to change it"
            )
    folder = Path(config["resume"])
    _refuse_links(folder)
    return _LockedFolder(folder)


def _refuse_links(folder: Path) -> None:
    """Refuse a run whose links would let training write outside of its folder."""
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files)):
            # `Path.resolve` fails on a loop of links.
            target = Path(os.path.realpath(path))
            if path.is_symlink() and not target.is_relative_to(inside):
                raise UserError(
                    f"{path} is a link that points outside the run: replace it by the file or "
                    "folder itself, or start a new run"
                )


def _contents(folder: Path) -> list[str]:
    """Names in a folder, without the lock and files that a killed process left half written."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
