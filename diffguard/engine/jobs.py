"""The input and output of the engine: jobs and reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Job:
    """An image to reconstruct.

    Attributes:
        image: `(C, H, W)` in [0, 1].
        label: Class to guide toward; -1 for no guidance.
        key: Identifies the image; its random crops depend on the key.
        mask: `(H, W)` bool, where classifier-free guidance applies; None for everywhere.
        tag: Data of the caller, returned with `Reconstruction.job`.
    """

    image: Tensor
    label: int
    key: tuple[str, ...] = ()
    mask: Tensor | None = None
    tag: Any = None


@dataclass
class Reconstruction:
    """The result of a job.

    Attributes:
        job: The job.
        guided: `(C, H, W)` in [0, 1].
        unguided: `(C, H, W)` from the same latent without guidance; None if not requested.
        stop_index: Index of the last inversion step made, 0-based.
        network_passes: Passes of the diffusion model for this image.
        latent: The state at which inversion stopped.
        guided_state: The final state, of which `guided` is the decoded image.
        unguided_state: The final state of `unguided`.
    """

    job: Job
    guided: Tensor
    unguided: Tensor | None
    stop_index: int
    network_passes: int
    latent: Tensor
    guided_state: Tensor
    unguided_state: Tensor | None
