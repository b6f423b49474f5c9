"""What the processes of a run must agree on: the machine, and files that all of them see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from diffguard.errors import UserError

# On a network file system other machines may see a new file late, or a stale copy.
_PATIENCE_SECONDS = 120.0


def check_alike(first: Mapping[str, object], this: Mapping[str, object]) -> None:
    """Raise `UserError` if scores of this process would differ in their last bits from the first.

    Args:
        first: What the machine of the first process contributes to a score.
        this: The same of this process.
    """
    for name, value in first.items():
        if this.get(name) != value:
            raise UserError(
                f"the processes differ: {name} is {value} in the first and {this.get(name)} in "
                "another, so their scores would not fit together; start all on one kind of "
                "machine with the same libraries"
            )


def wait_until(is_visible: Callable[[], bool], folder: Path, rank: int) -> None:
    """Wait for a file of the first process, which may appear late on another machine.

    Args:
        is_visible: Whether this process sees the file.
        folder: Folder of the file.
        rank: Rank of this process.

    Raises:
        UserError: If the file does not appear.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_visible():
        if time.monotonic() > deadline:
            raise UserError(
                f"process {rank} does not see what the first process has written to {folder}: "
                "the output folder must be on a disk that all machines share"
            )
        time.sleep(0.5)
