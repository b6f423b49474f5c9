"""An image while its trajectories run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from torch import Tensor

from diffguard.engine.jobs import Job


class Role(IntEnum):
    """What a trajectory computes."""

    INVERSION = 0
    GUIDED = 1
    UNGUIDED = 2


@dataclass
class ImageInFlight:
    """An image while its trajectories run.

    Attributes:
        job: The job.
        mask: The job's mask at the resolution of the states; None applies guidance everywhere.
        preview: `(C, h, w)` what early stop compares the states with; None without early stop.
        stop_index: Index of the last inversion step, -1 until the inversion stops.
        passes: Network passes so far.
        running: Number of its trajectories that have not ended.
        final: Final state of each trajectory that has ended.
    """

    job: Job
    mask: Tensor | None = None
    preview: Tensor | None = None
    stop_index: int = -1
    passes: int = 0
    running: int = 1
    final: dict[Role, Tensor] = field(default_factory=dict)
