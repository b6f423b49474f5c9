"""The `data` section of a config: which images a run uses, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffguard.batching import BATCH_SIZE, most_rows
from diffguard.errors import UserError
from diffguard.storage.arguments import LARGEST_SIDE

Part = Literal["train", "validation", "test"]
Group = Literal["id", "near", "far"]
Augmentation = Literal["none", "affine", "flip", "crop_flip", "reflect_crop_flip"]
OnError = Literal["stop", "skip"]

# Larger values are typing errors and would exhaust memory or processes.
_RANGES = {
    "image_size": (1, LARGEST_SIDE),
    "batch_size": (1, 65_536),
    "train_batch_size": (1, 65_536),
    "train_limit": (1, None),
    "limit": (1, None),
    "num_workers": (0, 256),
    "seed": (0, None),
}


@dataclass
class IDSets:
    """Sources of the ID data set.

    Args:
        train: Training images of the networks; the baselines use their features.
        validation: Calibration images: normalization, fusion and threshold.
        test: Test images.
        all: A single source of all ID images, which is split into the three parts in the same way
            every time.
        shares: `all`: shares of training, validation and test images.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    all: str | None = None
    shares: list[float] = field(default_factory=lambda: [0.6, 0.2, 0.2])

    def source(self, part: Part) -> str | None:
        """The source that holds a part."""
        return self.all or getattr(self, part)


@dataclass
class OODSets:
    """OOD test sets, name -> source.

    Args:
        near: Sets similar to the ID data.
        far: Sets unlike the ID data.
    """

    near: dict[str, str] = field(default_factory=dict)
    far: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The `data` section: ID and OOD data by name.

    A source is `kind:argument` or a path (see `sources.py`).

    Attributes:
        id: Sources of the ID data set.
        ood: OOD test sets.
        ood_validation: OOD sets for choosing settings, name -> source; never reported as a result.
        name: The ID data set's name in tables.
        root: Folder that sources with a kind, such as `folder:`, are relative to.
        image_size: Working size: side of the square images in pixels.
        channels: 1 for grayscale, 3 for RGB.
        class_names: Class names in the order of the labels; defaults to those of the data.
        batch_size: Images per network call in evaluation and validation, rounded up to a multiple
            of 8; `auto` takes the fastest that fits into memory, chosen once per folder of scores.
        train_batch_size: Images per batch in training.
        num_workers: Number of processes that read images, besides the main one.
        augment: Augmentation of training images (see `augmentation.py`).
        in_memory: Decode the training images once and keep them on the training device.
        train_limit: Largest number of ID training images, for studies of small data sets; the
            choice is always the same.
        limit: Largest number of images per set in evaluation and tuning; the choice is always the
            same. Calibration uses all ID validation images.
        missing: Whether an absent OOD set is an error, or is skipped and listed.
        on_error: Whether an unreadable image ends an evaluation, or is skipped and listed.
        check_labels: Whether calibration refuses a classifier whose classes seem to be in another
            order than those of the data, or only warns.
        download: Download absent sets of torchvision and the Hugging Face hub.
        get_from: Where the data can be obtained; shown if a set is absent.
        seed: Seed of order and augmentation in training; None takes that of the run (`--seed`),
            or 0 without a run.

    Raises:
        UserError: For a number out of range, and for a batch that would exhaust the memory.
    """

    id: IDSets
    ood: OODSets = field(default_factory=OODSets)
    ood_validation: dict[str, str] | None = None
    name: str = "id"
    root: str | None = None
    image_size: int = 28
    channels: int = 1
    class_names: tuple[str, ...] | None = None
    batch_size: int | Literal["auto"] = BATCH_SIZE
    train_batch_size: int = 64
    num_workers: int = 0
    augment: Augmentation = "none"
    in_memory: bool = False
    train_limit: int | None = None
    limit: int | None = None
    missing: Literal["error", "skip"] = "error"
    on_error: OnError = "stop"
    check_labels: bool = True
    download: bool = False
    get_from: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for key, (minimum, maximum) in _RANGES.items():
            value = getattr(self, key)
            if isinstance(value, int) and value < minimum:
                raise UserError(f"data.{key} must be at least {minimum}, got {value:,}")
            if isinstance(value, int) and maximum is not None and value > maximum:
                raise UserError(f"data.{key} must be at most {maximum:,}, got {value:,}")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels must be 1 (grayscale) or 3 (RGB), got {self.channels}")
        most = most_rows(self.channels, self.image_size, self.image_size)
        for key in ("batch_size", "train_batch_size"):
            value = getattr(self, key)
            if isinstance(value, int) and value > most:
                raise UserError(
                    f"data.{key} {value:,} is too large for images of {self.image_size:,} pixels a "
                    f"side and {self.channels} channels: expected at most {most:,}"
                )
