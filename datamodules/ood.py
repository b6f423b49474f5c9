"""The DataModule of all benchmarks: an ID data set with near-OOD and far-OOD sets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule
from torch import Tensor

from datamodules.augmentation import Prepare, augmentation, batch_augmentation
from datamodules.benchmark_sets import BenchmarkSets
from datamodules.config import Augmentation, DataConfig, Group, Part
from datamodules.evaluation_stream import EvaluationStream
from datamodules.image_set import ImageSet
from datamodules.loader import ImageLoader, ShareSampler, check_sockets, collate
from datamodules.prediction_set import prediction_set
from datamodules.training_memory import MemoryLoader, decode
from datamodules.training_stream import EpochSampler, TrainingLoader, TrainingStream
from diffguard.augment.mixtures import Mixtures
from diffguard.errors import UserError

# Images that a loader reads at once while the batch size of the networks is not yet chosen.
_READ_SIZE = 64


class OODDataModule(LightningDataModule):
    """ID and OOD data by name; a source is `kind:argument` or a path (see `sources.py`).

    `train_dataloader` and `val_dataloader` serve training. The evaluation is one stream over all
    sets, in which every image occurs once.

    Args:
        config: The `data` section.
        transform: Replaces the augmentation of training by a random transformation of an image
            `(C, H, W)` in [0, 1].

    Attributes:
        mixtures: Mixes a share of the training images with their edits; None mixes none.

    Raises:
        UserError: For a number out of range, or wrong names or sources.
    """

    def __init__(
        self, config: DataConfig, transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        if config.num_workers > 0:
            check_sockets()
        if config.in_memory and transform is not None:
            raise UserError("a transform needs data.in_memory false, or use data.augment")
        self.config, self.transform = config, transform
        self.mixtures: Mixtures | None = None
        self.sets = BenchmarkSets(config)
        self.prepare = Prepare(config.image_size, config.channels)
        self._decoded: list[tuple[Tensor, Tensor]] = []

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.config.image_size

    @property
    def channels(self) -> int:
        """1 for grayscale, 3 for RGB."""
        return self.config.channels

    @property
    def batch_size(self) -> int | Literal["auto"]:
        """Images per network call in evaluation and validation."""
        return self.config.batch_size

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
        limit = None if part == "train" else self.config.limit
        return [images.subset(limit) for images in self.sets.of_part(part)]

    def image_lists(self) -> dict[str, dict[str, Any]]:
        """Set -> `{list, n, scored}` of the test sets that are read from image lists.

        `list` is the version of the list, see `list_versions.list_version`; `n` is the number of
        its images, and `scored` the number of those that `limit` leaves.
        """
        return {
            images.name: {"list": images.list_version, "n": images.total, "scored": len(images)}
            for images in self.evaluation_sets("test")
            if images.list_version
        }

    def image_stream(
        self, paths: Sequence[str | Path], without: Collection[Path] = ()
    ) -> EvaluationStream:
        """The files of `prediction_set`. Files that are not images become items with an error."""
        images = prediction_set(paths, without)
        return EvaluationStream([images], self.prepare, on_error="skip")

    def stream(self, part: Part) -> EvaluationStream:
        """One stream over `evaluation_sets(part)`."""
        return EvaluationStream(
            self.evaluation_sets(part), self.prepare, on_error=self.config.on_error
        )

    def id_stream(self, part: Part, limit: int | None = None) -> EvaluationStream:
        """ID images of a part without augmentation; at most `limit`, always the same choice."""
        images = self.sets.id_set(part).subset(limit)
        return EvaluationStream([images], self.prepare, on_error=self.config.on_error)

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
        return ImageLoader(stream, num_workers=self.config.num_workers, collate_fn=collate, **order)

    def prepare_data(self) -> None:
        """Download absent data sets. Lightning calls this in one process per machine."""
        if self.config.download:
            self.sets.download()

    def for_stage(
        self,
        augment: Augmentation | None,
        train_batch_size: int | None,
        mixtures: Mixtures | None = None,
    ) -> OODDataModule:
        """The same data with the augmentation and batch size of one training stage.

        Args:
            augment: Augmentation; defaults to `data.augment`.
            train_batch_size: Images per batch in training; defaults to `data.train_batch_size`.
            mixtures: Mixes a share of the training images; None mixes none.

        Raises:
            UserError: If the batch size is out of range.
        """
        size = self.config.train_batch_size if train_batch_size is None else train_batch_size
        data = copy.copy(self)
        data.mixtures = mixtures
        data.config = replace(
            self.config, augment=augment or self.config.augment, train_batch_size=size
        )
        return data

    def train_dataloader(self) -> TrainingLoader | MemoryLoader:
        """Shuffled, augmented batches of the ID training set; a smaller last batch is dropped."""
        images = self.sets.id_set("train")
        rank, world_size = self._rank()
        sampler = EpochSampler(images, num_replicas=world_size, rank=rank, seed=self._seed)
        if self.config.in_memory:
            return self._memory_loader(images, sampler)
        transform = self.transform
        if transform is None and self.config.augment != "none":
            transform = augmentation(self.config.augment, self.image_size)
        return TrainingLoader(
            TrainingStream(images, self.prepare, transform, self._seed, self.mixtures),
            batch_size=self.config.train_batch_size,
            sampler=sampler,
            num_workers=self.config.num_workers,
            persistent_workers=self.config.num_workers > 0,
            drop_last=len(images) >= self.config.train_batch_size * world_size,
            collate_fn=collate,
        )

    @property
    def _seed(self) -> int:
        return self.config.seed or 0

    def _memory_loader(self, images: ImageSet, sampler: EpochSampler) -> MemoryLoader:
        augment = batch_augmentation(self.config.augment)
        if not self._decoded:
            stream = EvaluationStream([images], self.prepare)
            self._decoded.append(decode(self.stream_loader(stream)))
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        return MemoryLoader(
            *self._decoded[0],
            sampler,
            self.config.train_batch_size,
            augment,
            self._seed,
            device,
            self.mixtures,
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
            self.stream_loader(
                EvaluationStream([images], self.prepare, on_error=self.config.on_error)
            )
            for images in self.evaluation_sets("test")
        ]

    def predict_dataloader(self) -> list[ImageLoader]:
        """The loaders of `test_dataloader`."""
        return self.test_dataloader()

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
