"""The one DataModule of every benchmark: an ID data set and named OOD sets, near or far."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.augmentation import Augmentation, Prepare, augmentation, batch_augmentation
from datamodules.benchmark import Group, IDSets, OODSets, Part, check_sets, part_name
from datamodules.evaluation_stream import (
    EvaluationStream,
    ImageLoader,
    OnError,
    check_sockets,
    collate,
)
from datamodules.file_set import folder_set
from datamodules.image_set import ImageSet, MissingDataError
from datamodules.sources import is_folder, open_set
from datamodules.split import cut_part
from datamodules.training_stream import (
    EpochSampler,
    MemoryLoader,
    TrainingLoader,
    TrainingStream,
    decode,
)
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.paths import user_path

_NO_OOD = OODSets()
# Images a loader reads at once where the batch size of the networks is yet to be found.
_READ_SIZE = 64
# More is a slip of the keyboard, and would end in a lack of memory or of processes.
_LARGEST = {
    "image_size": 4096,
    "batch_size": 65_536,
    "train_batch_size": 65_536,
    "num_workers": 256,
}


class OODDataModule(LightningDataModule):
    """ID and OOD data by name; a source is `kind:argument` or a path (see `datasets.py`).

    Sets are opened when they are first asked for. `train_dataloader` and `val_dataloader` serve
    training; the evaluation is one stream over all sets, of which every image counts once.

    Args:
        id: Sources of the ID data set.
        ood: OOD test sets.
        ood_validation: OOD sets for choosing settings, name -> source; never reported as a result.
        name: The ID data set's name in tables.
        root: Folder that `imglist:`, `folder:` and `torchvision:` sources are relative to.
        image_size: Working size: side of the square images in pixels.
        channels: 1 for grey, 3 for RGB.
        class_names: Names of the classes in the order of the labels; default: as the data say.
        batch_size: Images a network call in evaluation and validation, rounded up to a multiple of
            8; `auto` takes the fastest that fits into memory, once for each folder of scores.
        train_batch_size: Images a batch in training.
        num_workers: Processes that read images beside the main one.
        augment: Augmentation of training images (see `transforms.py`).
        in_memory: Decode the training images once and keep them on the training device.
        limit: At most so many images of each evaluation set: a fixed choice.
        missing: Whether an absent OOD set is an error, or is skipped and named.
        on_error: Whether an unreadable image ends an evaluation, or is skipped and named.
        download: Let torchvision download its sets.
        get_from: Where the data can be had; told where a set is absent.
        seed: Seed of order and augmentation in training.

    Attributes:
        done: (dataset, index) pairs that `test_dataloader` leaves out because they are scored.
        left_out: Absent OOD sets among those opened, name -> reason (`missing: skip`).
    """

    def __init__(
        self,
        id: IDSets,
        ood: OODSets = _NO_OOD,
        ood_validation: dict[str, str] | None = None,
        name: str = "id",
        root: str | None = None,
        image_size: int = 28,
        channels: int = 1,
        class_names: list[str] | None = None,
        batch_size: int | Literal["auto"] = 64,
        train_batch_size: int = 64,
        num_workers: int = 0,
        augment: Augmentation = "none",
        in_memory: bool = False,
        limit: int | None = None,
        missing: Literal["error", "skip"] = "error",
        on_error: OnError = "stop",
        download: bool = False,
        get_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.id, self.ood, self.name = id, ood, name
        self.ood_validation = ood_validation or {}
        self.root, self.image_size, self.channels = root, image_size, channels
        self.batch_size, self.train_batch_size = batch_size, train_batch_size
        self.num_workers, self.augment, self.limit = num_workers, augment, limit
        self.missing, self.on_error, self.download, self.seed = missing, on_error, download, seed
        self.in_memory, self.get_from = in_memory, get_from
        self.done: set[tuple[str, int]] = set()
        self.left_out: dict[str, str] = {}
        self._class_names = class_names
        self._opened: dict[str, ImageSet] = {}
        self._decoded: list[tuple[Tensor, Tensor]] = []
        self._check()
        self.prepare = Prepare(image_size, channels)

    def _check(self) -> None:
        least = {"image_size": 1, "batch_size": 1, "train_batch_size": 1, "limit": 1}
        for key, minimum in {**least, "num_workers": 0, "seed": 0}.items():
            value = getattr(self, key)
            if isinstance(value, int) and value < minimum:
                raise UserError(f"data.{key} must be at least {minimum}, got {value}")
        for key, most in _LARGEST.items():
            value = getattr(self, key)
            if isinstance(value, int) and value > most:
                raise UserError(f"data.{key} must be at most {most:,}, got {value:,}")
        if self.num_workers > 0:
            check_sockets()
        if self._class_names == []:
            raise UserError("data.class_names is an empty list: name the classes, or leave it out")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        check_sets(self.name, self.id, self.ood, self.ood_validation, self.root)

    @property
    def read_size(self) -> int:
        """Images that a loader of evaluation or validation reads at once."""
        return _READ_SIZE if isinstance(self.batch_size, str) else self.batch_size

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels: as given, else the data's own, else numbers."""
        if self._class_names:
            return tuple(self._class_names)
        images = self._open_id(self._first_part() or "train")
        return images.class_names or tuple(map(str, range(int(images.labels.max()) + 1)))

    @property
    def num_classes(self) -> int:
        """How many ID classes there are."""
        return len(self.class_names)

    @property
    def groups(self) -> dict[str, Group]:
        """Test sets in the order of `evaluation_sets("test")`, each with its group."""
        names: dict[str, Group] = {self.name: "id"}
        names |= dict.fromkeys(self.ood.near, "near") | dict.fromkeys(self.ood.far, "far")
        return {images.name: names[images.name] for images in self.evaluation_sets("test")}

    def evaluation_sets(self, part: Part) -> list[ImageSet]:
        """The data sets of a stage, ID first; validation and test sets have at most `limit` images.

        Args:
            part: `train`: ID training images; `validation`: ID and OOD validation sets; `test`: ID,
                near and far test sets.

        Raises:
            MissingDataError: If a set is not there (an absent OOD set only with `missing: error`).
            UserError: If the ID set of this part is not configured, or a source is wrong.
        """
        if part == "train":
            return [self._open_id("train")]
        ood = {**self.ood.near, **self.ood.far} if part == "test" else self.ood_validation
        sets = [self._open_id(part), *self._open_ood(ood)]
        return [images.subset(self.limit) for images in sets]

    def predict_set(self, folder: str | Path, without: Collection[Path] = ()) -> ImageSet:
        """Every file below a folder as one set of images, `images`.

        Hidden files, results of this program and what is named in `without` are left out.

        Raises:
            UserError: If the folder is absent or empty.
        """
        path = user_path(folder, "--images")
        try:
            images = folder_set("images", path, any_file=True, without=without)
        except MissingDataError as error:
            raise UserError(f"{error}: name a folder with image files") from None
        _say_remarks(images)
        return images

    def folder_stream(self, folder: str | Path, without: Collection[Path] = ()) -> EvaluationStream:
        """The files of `predict_set`; those that are no images are handed on with their error."""
        return EvaluationStream([self.predict_set(folder, without)], self.prepare, on_error="skip")

    def stream(self, part: Part) -> EvaluationStream:
        """One stream over `evaluation_sets(part)`."""
        return EvaluationStream(self.evaluation_sets(part), self.prepare, on_error=self.on_error)

    def id_stream(self, part: Part, limit: int | None = None) -> EvaluationStream:
        """The ID images of a part, not augmented; at most `limit` of them, a fixed choice."""
        images = self._open_id(part).subset(limit)
        return EvaluationStream([images], self.prepare, on_error=self.on_error)

    def stream_loader(
        self, stream: EvaluationStream, batches: Iterable[list[int]] | None = None
    ) -> ImageLoader:
        """Batches of a stream.

        Args:
            stream: The images.
            batches: Positions in the stream, a list per batch; default: in order, every item once,
                the last batch as long as it comes.

        Raises:
            UserError: While iterating, for an unreadable image (`on_error: stop`).
        """
        given = {"batch_size": self.read_size} if batches is None else {"batch_sampler": batches}
        return ImageLoader(stream, num_workers=self.num_workers, collate_fn=collate, **given)

    def prepare_data(self) -> None:
        """Download what torchvision lacks. Lightning calls it, in one process a machine."""
        parts = {part: self.id.source(part) for part in ("train", "validation", "test")}
        sources = {**parts, **self.ood.near, **self.ood.far, **self.ood_validation}
        for name, source in sources.items():
            if self.download and source and source.startswith("torchvision:"):
                open_set(name, source, root=self.root, labelled=False, download=True)

    def for_stage(
        self, augment: Augmentation | None, train_batch_size: int | None
    ) -> OODDataModule:
        """The same data with the augmentation and batch size of one training stage.

        Args:
            augment: Augmentation; None is that of the data.
            train_batch_size: Images a batch in training; None is that of the data.
        """
        own = copy.copy(self)
        own.augment = augment or self.augment
        own.train_batch_size = (
            self.train_batch_size if train_batch_size is None else train_batch_size
        )
        own._check()
        return own

    def train_dataloader(self) -> TrainingLoader | MemoryLoader:
        """Shuffled, augmented batches of the ID training set; a last, smaller batch is dropped."""
        images = self._open_id("train")
        rank, world_size = self._rank()
        sampler = EpochSampler(images, num_replicas=world_size, rank=rank, seed=self.seed)
        if self.in_memory:
            return self._memory_loader(images, sampler)
        augment = None if self.augment == "none" else augmentation(self.augment, self.image_size)
        return TrainingLoader(
            TrainingStream(images, self.prepare, augment, self.seed),
            batch_size=self.train_batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            drop_last=len(images) >= self.train_batch_size * world_size,
            collate_fn=collate,
        )

    def _memory_loader(self, images: ImageSet, sampler: EpochSampler) -> MemoryLoader:
        augment = batch_augmentation(self.augment)
        if not self._decoded:
            self._decoded.append(
                decode(self.stream_loader(EvaluationStream([images], self.prepare)))
            )
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        return MemoryLoader(
            *self._decoded[0], sampler, self.train_batch_size, augment, self.seed, device
        )

    def val_dataloader(self) -> ImageLoader:
        """The ID validation set, this rank's share."""
        stream = EvaluationStream([self._open_id("validation")], self.prepare)
        return self.stream_loader(stream.share(*self._rank()))

    def test_dataloader(self) -> ImageLoader:
        """The test stream: this rank's share without what is `done`."""
        return self.stream_loader(self.stream("test").share(*self._rank()).without(self.done))

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _first_part(self) -> Part | None:
        """The part of the ID data whose classes are those of all."""
        parts: tuple[Part, ...] = ("train", "validation", "test")
        return next((part for part in parts if self.id.source(part)), None)

    def _open_id(self, part: Part) -> ImageSet:
        source = self.id.source(part)
        if not source:
            instead = ", or score a folder with --images" if part == "test" else ""
            raise UserError(
                f"data.id.{part} is not set: name the source of the ID {part} images{instead}"
            )
        names: Sequence[str] | None = self._class_names
        if names is None and not self.id.all and part != self._first_part() and is_folder(source):
            names = self.class_names  # a folder may lack a class, which must not shift the others
        name = part_name(self.name, part)
        if self.id.all:
            whole = self._open(f"{self.name}_all", source, labelled=True, class_names=names)
            return cut_part(whole, part, self.id.shares, name)
        images = self._open(name, source, labelled=True, class_names=names)
        first = self._first_part()
        # Evaluation may have no training images: the detector's classes then bound the labels.
        if first not in (None, part) and part_name(self.name, first) in self._opened:
            self.check_labels(images, part, self.num_classes)
        return images

    def check_labels(self, images: ImageSet, part: Part, classes: int) -> None:
        """Compare the labels of ID images with the number of classes.

        Raises:
            UserError: For a label beyond the classes, naming it and its source.
        """
        top = int(images.labels.max())
        if top >= classes:
            raise UserError(
                f"data.id.{part} ({self.id.source(part)}) has label {top}, but there are only "
                f"{classes} classes, 0 … {classes - 1}: correct the label, or name all classes in "
                "data.class_names"
            )

    def _open_ood(self, sources: Mapping[str, str]) -> list[ImageSet]:
        """The OOD sets that are there; all that are not are named at once, or left out."""
        found, absent = [], []
        for name, source in sources.items():
            if name in self.left_out:
                continue
            try:
                found.append(self._open(name, source, labelled=False))
            except MissingDataError as error:
                absent.append(error)
                if self.missing == "skip":
                    self.left_out[name] = error.absent
        if absent and self.missing == "error":
            advice = [*dict.fromkeys(error.advice for error in absent if error.advice)]
            advice.append("leave absent OOD sets out with --data.missing skip")
            names = "; ".join(error.absent for error in absent)
            raise MissingDataError(names, ", or ".join(advice))
        return found

    def _open(
        self, name: str, source: str, *, labelled: bool, class_names: Sequence[str] | None = None
    ) -> ImageSet:
        if name not in self._opened:
            try:
                self._opened[name] = open_set(
                    name, source, root=self.root, labelled=labelled, class_names=class_names
                )
            except MissingDataError as error:
                origin = f"get it from {self.get_from}" if self.get_from else ""
                advice = "; ".join(filter(None, (origin, error.advice)))
                raise MissingDataError(error.absent, advice) from error
            _say_remarks(self._opened[name])
        return self._opened[name]


def _say_remarks(images: ImageSet) -> None:
    """Print what a user should know of a set, on the first process."""
    if rank_zero_only.rank == 0:
        for remark in images.remarks:
            say(f"note: {remark}", file=sys.stderr)
