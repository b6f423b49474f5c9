"""The result of a scoring run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from diffguard.engine.acceleration import CompileMode


@dataclass(frozen=True)
class FinishedRun:
    """A run whose images are all scored.

    Attributes:
        table: The merged score table.
        batch_size: Rows of every network call.
        precision: Enters the precision of the networks' calls.
        compile: How the diffusion network was compiled.
    """

    table: Path
    batch_size: int
    precision: Callable[[], AbstractContextManager[None]]
    compile: CompileMode = False
