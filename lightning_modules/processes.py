"""What the processes of an evaluation share: the remaining images, and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning.pytorch as pl
from torch.distributed import HashStore, Store, TCPStore

from diffguard.errors import UserError
from diffguard.processes.agreement import wait_until
from diffguard.storage.files import write_error

# More than the number of images of any stream.
_ALL = 1 << 40


class SharedWork:
    """A counter that gives each image to the first process that is free.

    Images differ in cost, and machines may differ in speed. A process that is done takes the next
    images, so all end at about the same time. Which process scores an image does not change its
    scores.

    Args:
        trainer: A trainer whose processes are connected; each of them creates this object.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self._store = _open_store(trainer)

    def batches(self, total: int, size: int) -> Iterator[list[int]]:
        """Positions of a stream of `total` images, up to `size` at a time."""
        while (begin := self._store.add("taken", size) - size) < total:
            yield list(range(begin, min(begin + size, total)))

    def fail(self, error: UserError) -> None:
        """Report to the other processes that this one failed; no process gets further images.

        Only the first failure is reported, because others often follow from it.
        """
        if self._store.add("failures", 1) == 1:
            self._store.set("failure", str(error).encode("utf-8", "backslashreplace").decode())
        self._store.add("taken", _ALL)

    def together(self, name: str, step: Callable[[], Any] = lambda: None) -> Any:
        """Run a step on every process, and wait for all of them.

        Args:
            name: Name of the step.
            step: The step.

        Returns:
            The result of the step on this process.

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
        # The first process holds the store and may exit after the last step, so all read it first.
        strategy.barrier(f"{name}: read")
        if failure is not None:
            raise UserError(failure)
        return result


def check_shared(folder: Path, trainer: pl.Trainer, work: SharedWork) -> None:
    """Make sure that all processes see the same folder before any of them scores.

    Args:
        folder: The output folder.
        trainer: The trainer that connects the processes.
        work: Their shared work.

    Raises:
        UserError: On every process, if one does not see a file that the first has written.
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


def _open_store(trainer: pl.Trainer) -> Store:
    if trainer.world_size == 1:
        return HashStore()
    strategy: Any = trainer.strategy  # of parallel processes
    host = strategy.cluster_environment.main_address
    server = (
        TCPStore(host, 0, is_master=True, wait_for_workers=False)
        if trainer.is_global_zero
        else None
    )
    port = strategy.broadcast(server.port if server else 0)
    return server or TCPStore(host, port, is_master=False)
