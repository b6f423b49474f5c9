"""Jobs: the images that the engine takes in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor


@dataclass
class Job:
    """An image to work on.

    Attributes:
        image: `(C, H, W)` in [0, 1].
        label: Class to guide toward; -1 for no guidance.
        key: Identifies the image; its random crops and its noise depend on the key.
        mask: `(H, W)` bool, where classifier-free guidance applies; None for everywhere.
        tag: Data of the caller, returned with the outcome.
    """

    image: Tensor
    label: int
    key: tuple[str, ...] = ()
    mask: Tensor | None = None
    tag: Any = None


class Reach(Enum):
    """Where guidance changes an image."""

    NO_LABEL = "the image has no label"
    NOWHERE = "its mask is empty"
    INSIDE = "inside its mask"
    EVERYWHERE = "it has no mask"

    @classmethod
    def of(cls, label: int, mask_size: int | None) -> Reach:
        """The reach of guidance in an image, by its label and the size of its mask."""
        if label < 0:
            return cls.NO_LABEL
        if mask_size is None:
            return cls.EVERYWHERE
        return cls.INSIDE if mask_size else cls.NOWHERE


@dataclass
class Source:
    """The image of a job, as the engine and its observers see it.

    Attributes:
        job: The job.
        clean: `(…)` clean state.
        reach: Where guidance changes it.
        mask: The job's mask at the resolution of the states; None applies guidance everywhere.
        preview: `(C, h, w)` the clean state as an image; None unless an observer asks for it.
    """

    job: Job
    clean: Tensor
    reach: Reach
    mask: Tensor | None = None
    preview: Tensor | None = None
