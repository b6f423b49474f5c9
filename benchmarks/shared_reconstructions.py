"""Reconstructions that several detectors share.

DiffGuard's reconstructions of an image depend on the diffusion model, the settings and the label
that guides them. Detectors that differ in their classifiers alone therefore make the same
reconstructions whenever their classifiers agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.outcome import Outcome
from diffguard.images import pixel_key
from diffguard.methods import stream

# (image, label) -> the outcome of the job, without the caller's data.
Memory = dict[tuple[str, int], Outcome]


class SharedEngine(Engine):
    """An engine that computes the outcome of an image and a label once.

    Args:
        memory: The outcomes so far. All engines that share it must have the same diffusion model
            and settings.
        arguments: The arguments of `Engine`.
    """

    def __init__(self, *arguments: Any, memory: Memory, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.memory = memory

    def push(self, jobs: Iterable[Job]) -> list[Outcome]:
        """Add images and return the finished ones, see `Engine.push`.

        Raises:
            ValueError: If the outcome of a job depends on more than its image and label.
        """
        outcomes, new = [], []
        for job in jobs:
            if job.key or job.mask is not None:
                raise ValueError("reconstructions with a mask or drawn noise are not shared")
            outcome = self.memory.get(_place(job))
            if outcome is None:
                new.append(job)
            else:
                outcomes.append(replace(outcome, job=job))
        return outcomes + self._remember(super().push(new))

    def flush(self) -> list[Outcome]:
        """Finish everything in flight."""
        return self._remember(super().flush())

    def _remember(self, outcomes: list[Outcome]) -> list[Outcome]:
        for outcome in outcomes:
            job = replace(outcome.job, tag=None)
            self.memory[_place(job)] = replace(outcome, job=job)
        return outcomes


@contextmanager
def shared(memory: Memory) -> Iterator[None]:
    """Let all streams of scores share their reconstructions."""
    engine = stream.Engine
    stream.Engine = partial(SharedEngine, memory=memory)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        stream.Engine = engine  # type: ignore[misc]


def _place(job: Job) -> tuple[str, int]:
    return pixel_key(job.image), job.label
