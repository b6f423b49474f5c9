"""What the processes of an evaluation share while they score: the images left, and a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import lightning.pytorch as pl
from torch.distributed import HashStore, Store, TCPStore

from diffguard.errors import UserError
from diffguard.storage.files import write_error

Result = TypeVar("Result")

# More images than any stream has.
_ALL = 1 << 40
# A file may show late, or an old one still, on another machine.
_PATIENCE_SECONDS = 120.0


class SharedWork:
    """A counter that hands each image to the process that asks first.

    Images differ in cost, and so may machines; whoever is done takes the next ones, so that all end
    at about the same time. Which process scores an image does not change its scores.

    Args:
        trainer: A trainer whose processes are connected; each of them makes this object.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self._store = _open_store(trainer)

    def batches(self, total: int, size: int) -> Iterator[list[int]]:
        """Positions of a stream of `total` images, up to `size` at a time."""
        while (begin := self._store.add("taken", size) - size) < total:
            yield list(range(begin, min(begin + size, total)))

    def fail(self, error: UserError) -> None:
        """Tell the others that this process cannot go on; nobody is given further images.

        The first failure is the one that is told: others often follow from it.
        """
        if self._store.add("failures", 1) == 1:
            self._store.set("failure", str(error).encode("utf-8", "backslashreplace").decode())
        self._store.add("taken", _ALL)

    def together(self, name: str, step: Callable[[], Result] = lambda: None) -> Result:
        """Do a step on every process, and wait for all of them.

        Args:
            name: Of the step.
            step: What to do.

        Returns:
            What the step returned on this process.

        Raises:
            UserError: On every process, if one of them failed.
        """
        result = None
        try:
            result = step()
        except UserError as error:
            self.fail(error)
        strategy = self._trainer.strategy
        strategy.barrier(name)
        failure = self._store.get("failure").decode() if self._store.check(["failure"]) else None
        # The first process holds the store and may leave after the last step, so all read it first.
        strategy.barrier(f"{name}: known")
        if failure is not None:
            raise UserError(failure)
        return result


def check_shared(folder: Path, trainer: pl.Trainer, work: SharedWork) -> None:
    """Make sure that all processes see one folder, before any of them scores.

    Args:
        folder: The output folder.
        trainer: The trainer that connects the processes.
        work: What they share.

    Raises:
        UserError: On every process, if one does not see what the first has written.
    """
    if trainer.world_size == 1:
        return
    token = trainer.strategy.broadcast(uuid4().hex)
    path = folder / f".shared-{token}"

    def write() -> None:
        if trainer.is_global_zero:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as error:
                raise write_error(path, error) from error

    work.together("token written", write)
    try:
        work.together("token seen", lambda: wait_until(path.exists, folder, trainer.global_rank))
    finally:
        if trainer.is_global_zero:
            path.unlink(missing_ok=True)


def check_alike(first: Mapping[str, object], own: Mapping[str, object]) -> None:
    """Raise `UserError` if this process would score with other last bits than the first one."""
    for name, value in first.items():
        if own.get(name) != value:
            raise UserError(
                f"the processes differ: {name} is {value} in the first and {own.get(name)} in "
                "another, so their scores would not fit together; start all on one kind of "
                "machine with the same libraries"
            )


def wait_until(seen: Callable[[], bool], folder: Path, rank: int) -> None:
    """Wait for a file of the first process, which may show late on another machine.

    Raises:
        UserError: If it does not show.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not seen():
        if time.monotonic() > deadline:
            raise UserError(
                f"process {rank} does not see in {folder} what the first process has written: "
                "the output folder must lie on a disk that all machines share"
            )
        time.sleep(0.5)


def _open_store(trainer: pl.Trainer) -> Store:
    if trainer.world_size == 1:
        return HashStore()
    host = trainer.strategy.cluster_environment.main_address
    own = (
        TCPStore(host, 0, is_master=True, wait_for_workers=False)
        if trainer.is_global_zero
        else None
    )
    port = trainer.strategy.broadcast(own.port if own else None)
    return own or TCPStore(host, port, is_master=False)
