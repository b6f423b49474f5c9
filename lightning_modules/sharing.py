"""What the processes of an evaluation share while they score: the images left, and a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import lightning.pytorch as pl
from torch.distributed import HashStore, Store, TCPStore

from diffguard.errors import UserError

Result = TypeVar("Result")

# More images than any stream has.
_ALL = 1 << 40


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
        """Tell the others that this process cannot go on; nobody is given further images."""
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
