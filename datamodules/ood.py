"""The DataModule of all benchmarks: an ID data set with near-OOD and far-OOD sets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule
from torch import Tensor

from datamodules.augmentation import Augmentation, Prepare, augmentation, batch_augmentation
from datamodules.benchmark import Group, IDSets, OODSets, Part
from datamodules.benchmark_sets import BenchmarkSets, prediction_set
from datamodules.evaluation_stream import EvaluationStream
from datamodules.image_set import ImageSet
from datamodules.loader import ImageLoader, OnError, ShareSampler, check_sockets, collate
from datamodules.ranges import check_ranges
from datamodules.training_memory import MemoryLoader, decode
from datamodules.training_stream import EpochSampler, TrainingLoader, TrainingStream
from diffguard.errors import UserError

_NO_OOD = OODSets()
# Images that a loader reads at once while the batch size of the networks is not yet chosen.
_READ_SIZE = 64


class OODDataModule(LightningDataModule):
    """ID and OOD data by name; a source is `kind:argument` or a path (see `sources.py`).

    `train_dataloader` and `val_dataloader` serve training. The evaluation is one stream over all
    sets, in which every image occurs once.

    Args:
        id: Sources of the ID data set.
        ood: OOD test sets.
        ood_validation: OOD sets for choosing settings, name -> source; never reported as a result.
        name: The ID data set's name in tables.
        root: Folder that `imglist:`, `folder:` and `torchvision:` sources are relative to.
        image_size: Working size: side of the square images in pixels.
        channels: 1 for grayscale, 3 for RGB.
        class_names: Class names in the order of the labels; defaults to those of the data.
        batch_size: Images per network call in evaluation and validation, rounded up to a multiple
            of 8; `auto` takes the fastest that fits into memory, chosen once per folder of scores.
        train_batch_size: Images per batch in training.
        num_workers: Number of processes that read images, besides the main one.
        augment: Augmentation of training images (see `augmentation.py`).
        in_memory: Decode the training images once and keep them on the training device.
        limit: Largest number of images per set in evaluation and tuning; the choice is always the
            same. Calibration uses all ID validation images.
        missing: Whether an absent OOD set is an error, or is skipped and listed.
        on_error: Whether an unreadable image ends an evaluation, or is skipped and listed.
        download: Let torchvision download its sets.
        get_from: Where the data can be obtained; shown if a set is absent.
        seed: Seed of order and augmentation in training.

    Attributes:
        transform: Replaces `augment` by a random transformation of `(C, H, W)`; None by default.

    Raises:
        UserError: For a number out of range, or wrong names or sources.
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
        class_names: tuple[str, ...] | None = None,
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
        self.name, self.image_size, self.channels = name, image_size, channels
        self.batch_size, self.train_batch_size = batch_size, train_batch_size
        self.num_workers, self.augment, self.limit = num_workers, augment, limit
        self.on_error, self.download, self.seed = on_error, download, seed
        self.in_memory = in_memory
        check_ranges(vars(self))
        if num_workers > 0:
            check_sockets()
        self.sets = BenchmarkSets(
            name,
            id,
            ood,
            ood_validation or {},
            root=root,
            class_names=class_names,
            missing=missing,
            get_from=get_from,
        )
        self.prepare = Prepare(image_size, channels)
        self.transform: Callable[[Tensor], Tensor] | None = None
        self._decoded: list[tuple[Tensor, Tensor]] = []

    @property
    def read_size(self) -> int:
        """Images that a loader of evaluation or validation reads at once."""
        return _READ_SIZE if isinstance(self.batch_size, str) else self.batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels: as given, else from the data, else numbers."""
        return self.sets.class_names

    @property
    def num_classes(self) -> int:
        """Number of ID classes."""
        return len(self.class_names)

    @property
    def groups(self) -> dict[str, Group]:
        """Name -> group of the test sets, in the order of `evaluation_sets("test")`."""
        return self.sets.groups

    def evaluation_sets(self, part: Part) -> list[ImageSet]:
        """The data sets of a part, ID first; validation and test sets have at most `limit` images.

        Args:
            part: `train`: ID training images; `validation`: ID and OOD validation sets; `test`: ID,
                near-OOD and far-OOD test sets.

        Raises:
            MissingDataError: If a set is absent (for OOD sets, only with `missing: error`).
            UserError: If the ID set of this part is not configured, or a source is wrong.
        """
        limit = None if part == "train" else self.limit
        return [images.subset(limit) for images in self.sets.of_part(part)]

    def folder_stream(self, folder: str | Path, without: Collection[Path] = ()) -> EvaluationStream:
        """The files of `prediction_set`. Files that are not images become items with an error."""
        images = prediction_set(folder, without)
        return EvaluationStream([images], self.prepare, on_error="skip")

    def stream(self, part: Part) -> EvaluationStream:
        """One stream over `evaluation_sets(part)`."""
        return EvaluationStream(self.evaluation_sets(part), self.prepare, on_error=self.on_error)

    def id_stream(self, part: Part, limit: int | None = None) -> EvaluationStream:
        """ID images of a part without augmentation; at most `limit`, always the same choice."""
        images = self.sets.id_set(part).subset(limit)
        return EvaluationStream([images], self.prepare, on_error=self.on_error)

    def stream_loader(
        self, stream: EvaluationStream, batches: Iterable[list[int]] | None = None
    ) -> ImageLoader:
        """Batches of a stream.

        Args:
            stream: The images.
            batches: Positions in the stream, a list per batch; default: every item once, in order.
                The last batch may be smaller.

        Raises:
            UserError: During iteration, if an image is unreadable (`on_error: stop`).
        """
        order = {"batch_size": self.read_size} if batches is None else {"batch_sampler": batches}
        return self._loader(stream, **order)

    def _loader(self, stream: EvaluationStream, **order: Any) -> ImageLoader:
        return ImageLoader(stream, num_workers=self.num_workers, collate_fn=collate, **order)

    def prepare_data(self) -> None:
        """Download absent torchvision sets. Lightning calls this in one process per machine."""
        if self.download:
            self.sets.download()

    def for_stage(
        self, augment: Augmentation | None, train_batch_size: int | None
    ) -> OODDataModule:
        """The same data with the augmentation and batch size of one training stage.

        Args:
            augment: Augmentation; defaults to `data.augment`.
            train_batch_size: Images per batch in training; defaults to `data.train_batch_size`.

        Raises:
            UserError: If the batch size is out of range.
        """
        data = copy.copy(self)
        data.augment = augment or self.augment
        if train_batch_size is not None:
            data.train_batch_size = train_batch_size
        check_ranges(vars(data))
        return data

    def train_dataloader(self) -> TrainingLoader | MemoryLoader:
        """Shuffled, augmented batches of the ID training set; a smaller last batch is dropped."""
        images = self.sets.id_set("train")
        rank, world_size = self._rank()
        sampler = EpochSampler(images, num_replicas=world_size, rank=rank, seed=self.seed)
        if self.in_memory and self.transform is not None:
            raise UserError("a transform needs data.in_memory false, or use data.augment")
        if self.in_memory:
            return self._memory_loader(images, sampler)
        transform = self.transform
        if transform is None and self.augment != "none":
            transform = augmentation(self.augment, self.image_size)
        return TrainingLoader(
            TrainingStream(images, self.prepare, transform, self.seed),
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
            stream = EvaluationStream([images], self.prepare)
            self._decoded.append(decode(self.stream_loader(stream)))
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        return MemoryLoader(
            *self._decoded[0], sampler, self.train_batch_size, augment, self.seed, device
        )

    def val_dataloader(self) -> ImageLoader:
        """This rank's share of the ID validation set."""
        stream = EvaluationStream([self.sets.id_set("validation")], self.prepare)
        rank, world_size = self._rank()
        sampler = ShareSampler(stream, num_replicas=world_size, rank=rank)
        return self._loader(stream, batch_size=self.read_size, sampler=sampler)

    def test_dataloader(self) -> list[ImageLoader]:
        """A loader per test set, in the order of `groups`; Lightning divides it among the ranks."""
        return [
            self.stream_loader(EvaluationStream([images], self.prepare, on_error=self.on_error))
            for images in self.evaluation_sets("test")
        ]

    def predict_dataloader(self) -> list[ImageLoader]:
        """The loaders of `test_dataloader`."""
        return self.test_dataloader()

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
