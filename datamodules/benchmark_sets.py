"""The data sets of a benchmark, opened by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from datamodules.benchmark import PARTS, check_sets, part_name
from datamodules.config import DataConfig, Group, Part
from datamodules.image_set import ImageSet, MissingDataError
from datamodules.prediction_set import print_remarks
from datamodules.sources import is_folder, open_set
from datamodules.split import cut_part
from diffguard.errors import UserError


class BenchmarkSets:
    """The ID and OOD sets of a benchmark. Each set is opened once, on first use.

    Args:
        config: The `data` section.

    Attributes:
        left_out: Absent OOD sets that were skipped, name -> reason.

    Raises:
        UserError: See `check_sets`; or if `class_names` is empty.
    """

    def __init__(self, config: DataConfig) -> None:
        if config.class_names is not None and not config.class_names:
            raise UserError("data.class_names is an empty list: name the classes, or leave it out")
        self.name, self.id, self.ood = config.name, config.id, config.ood
        self.ood_validation = config.ood_validation or {}
        check_sets(self.name, self.id, self.ood, self.ood_validation, config.root)
        self.root, self.missing, self.get_from = config.root, config.missing, config.get_from
        self._train_limit = config.train_limit
        self.left_out: dict[str, str] = {}
        self._given_names = config.class_names
        self._opened: dict[str, ImageSet] = {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels: as given, else from the data, else numbers."""
        if self._given_names:
            return tuple(self._given_names)
        images = self.id_set(self._first_part() or "train")
        return images.class_names or tuple(map(str, range(int(images.labels.max()) + 1)))

    @property
    def groups(self) -> dict[str, Group]:
        """Name -> group of the test sets, in their order; skipped sets are not listed."""
        groups: dict[str, Group] = {self.name: "id"}
        groups.update((name, "near") for name in self.ood.near)
        groups.update((name, "far") for name in self.ood.far)
        return {images.name: groups[images.name] for images in self.of_part("test")}

    def of_part(self, part: Part) -> list[ImageSet]:
        """The data sets of a part of the benchmark, ID first.

        Args:
            part: `train`: ID training images; `validation`: ID and OOD validation sets; `test`: ID,
                near-OOD and far-OOD test sets.

        Raises:
            MissingDataError: If a set is absent (for OOD sets, only with `missing: error`).
            UserError: If the ID set of this part is not configured, or a source is wrong.
        """
        if part == "train":
            return [self.id_set("train")]
        ood = {**self.ood.near, **self.ood.far} if part == "test" else self.ood_validation
        return [self.id_set(part), *self._ood_sets(ood)]

    def id_set(self, part: Part) -> ImageSet:
        """One part of the ID data set; of training images at most `data.train_limit`.

        Raises:
            MissingDataError: If the set is absent.
            UserError: If it is not configured, its source is wrong, or its labels exceed the
                classes.
        """
        images = self._whole_id_set(part)
        return images.subset(self._train_limit) if part == "train" else images

    def _whole_id_set(self, part: Part) -> ImageSet:
        source = self.id.source(part)
        if not source:
            alternative = ", or score a folder with --images" if part == "test" else ""
            raise UserError(
                f"data.id.{part} is not set: name the source of the ID {part} images{alternative}"
            )
        name, first = part_name(self.name, part), self._first_part()
        class_names = self._given_names
        if class_names is None and not self.id.all and part != first and is_folder(source):
            class_names = self.class_names  # a missing class folder must not shift the labels
        if self.id.all:
            whole = self._open(f"{self.name}_all", source, labeled=True, class_names=class_names)
            return cut_part(whole, part, self.id.shares, name)
        images = self._open(name, source, labeled=True, class_names=class_names)
        # An evaluation may lack training images; the detector's classes then bound the labels.
        if first not in (None, part) and part_name(self.name, first) in self._opened:
            self.check_labels(images, part, len(self.class_names))
        return images

    def check_labels(self, images: ImageSet, part: Part, classes: int) -> None:
        """Compare the labels of ID images with the number of classes.

        Raises:
            UserError: If a label exceeds the classes.
        """
        top = int(images.labels.max())
        if top >= classes:
            raise UserError(
                f"data.id.{part} ({self.id.source(part)}) has label {top}, but there are only "
                f"{classes} classes, 0 to {classes - 1}: correct the label, or name all classes in "
                "data.class_names"
            )

    def download(self) -> None:
        """Download the absent sets of torchvision and the Hugging Face hub.

        Raises:
            MissingDataError: If a download fails.
        """
        parts: dict[str, str | None] = {part: self.id.source(part) for part in PARTS}
        sources = {**parts, **self.ood.near, **self.ood.far, **self.ood_validation}
        for name, source in sources.items():
            if source and source.startswith(("torchvision:", "hf:")):
                open_set(name, source, root=self.root, labeled=False, download=True)

    def _first_part(self) -> Part | None:
        """The first configured ID part. It defines the classes of all parts."""
        return next((part for part in PARTS if self.id.source(part)), None)

    def _ood_sets(self, sources: Mapping[str, str]) -> list[ImageSet]:
        """The OOD sets that exist. One error lists all absent sets, unless they are skipped."""
        sets, absent = [], []
        for name, source in sources.items():
            if name in self.left_out:
                continue
            try:
                sets.append(self._open(name, source, labeled=False))
            except MissingDataError as error:
                absent.append(error)
                if self.missing == "skip":
                    self.left_out[name] = error.absent
        if absent and self.missing == "error":
            advice = [*dict.fromkeys(error.advice for error in absent if error.advice)]
            advice.append("leave absent OOD sets out with --data.missing skip")
            names = "; ".join(error.absent for error in absent)
            raise MissingDataError(names, ", or ".join(advice))
        return sets

    def _open(
        self, name: str, source: str, *, labeled: bool, class_names: Sequence[str] | None = None
    ) -> ImageSet:
        if name not in self._opened:
            try:
                self._opened[name] = open_set(
                    name, source, root=self.root, labeled=labeled, class_names=class_names
                )
            except MissingDataError as error:
                origin = f"get it from {self.get_from}" if self.get_from else ""
                advice = "; ".join(filter(None, (origin, error.advice)))
                raise MissingDataError(error.absent, advice) from error
            print_remarks(self._opened[name])
        return self._opened[name]
