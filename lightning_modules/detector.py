"""A detector in any Lightning Trainer: metrics of a test, verdicts of a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchmetrics import MeanMetric

from diffguard.batching import BATCH_SIZE
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.inputs.batch_parts import class_labels, images_of_any_form
from diffguard.inputs.working import working_images
from diffguard.methods.adaptive_stream import AdaptiveStream
from diffguard.methods.items import Item, Scored
from diffguard.methods.verdicts import Verdicts
from diffguard.report.loaders import groups_of, loader_list, share_of_process
from diffguard.report.main_metrics import main_metrics
from diffguard.report.set_metrics import ID, SetMetrics
from diffguard.settings.score_names import complete_score_names
from lightning_modules.stream import StreamModule


class DetectorModule(StreamModule):
    """Runs a detector in `trainer.test` and `trainer.predict`, with any loaders.

    `trainer.test` takes a loader of ID test images and one for each OOD set. It logs AUROC and
    FPR@95 of the main scores as means over the groups, such as `near/auroc/fusion` (see
    `main_metrics`), and the accuracy on the ID images as `<ID set>/accuracy`. With `all_metrics`,
    it logs AUROC, AUPR and FPR@95 of every score, on every set too (see `SetMetrics`). The metrics
    are those of all processes; images that a distributed sampler repeats count once.

    `trainer.predict` returns the `Verdicts` of each batch.

    A batch is images, a pair of images and labels, a list of pairs of one image and its label, or a
    mapping with `image` and `label`. Images have any form that `Detector.predict` takes, such as
    tensors `(N, C, H, W)` or lists of PIL images of any size. Labels of OOD images are ignored.

    Args:
        detector: The detector.
        batch_size: Images of every network call, rounded up to a multiple of 8; the loaders may
            have others.
        groups: Name -> group of the test sets. A mapping of loaders has the same names; a list of
            loaders has the same order. One group is `id`; names of the others are free. Defaults to
            the `groups` of the DataModule; without them, the first set is ID and all others have
            the group `ood`.
        all_metrics: Whether `trainer.test` logs all metrics of all scores, as it does in any case
            without calibration.

    Example:
        >>> module = DetectorModule(detector)  # doctest: +SKIP
        >>> trainer.test(module, {"cifar10": id_loader, "svhn": ood_loader})  # doctest: +SKIP
    """

    detector: Detector

    def __init__(
        self,
        detector: Detector,
        batch_size: int = BATCH_SIZE,
        *,
        groups: Mapping[str, str] | None = None,
        all_metrics: bool = False,
    ) -> None:
        super().__init__(detector)
        self.batch_size, self.groups, self.all_metrics = batch_size, groups, all_metrics
        self._has_begun = False
        # Of each test loader: the images of this process, and how many it has seen.
        self._limits: list[int | None] = []
        self._counts: list[int] = []
        # Each test has its own.
        self.metrics: SetMetrics
        self.accuracy: MeanMetric
        # A process may have no image of a small set.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def forward(self, images: Any) -> torch.Tensor:
        """Score images in any form; see `Detector.score`."""
        return self.detector.score(images, batch_size=self.batch_size)

    def open_stream(self) -> AdaptiveStream:
        """A stream of all scores; a detector without calibration has no derived ones."""
        shrinks = self.trainer.world_size == 1
        return AdaptiveStream(self.detector.stream, self.batch_size, shrinks=shrinks)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Note that no test has begun."""
        self._has_begun = False

    def teardown(self, stage: str) -> None:
        """Take part in the metrics if this process has no test image.

        Lightning skips the test in such a process, and the others wait for its part.
        """
        trainer = self.trainer
        is_skipped = stage == "test" and trainer.limit_test_batches and not self._has_begun
        if is_skipped and trainer.world_size > 1:
            self._begin_metrics()
            self.take([])
            self._compute_metrics()

    def on_test_epoch_start(self) -> None:
        """Start new metrics.

        Raises:
            UserError: If the loaders do not match the groups, or there is no OOD set.
        """
        self._has_begun = True
        self._begin_metrics()
        self._limits = [
            share_of_process(loader) for loader in loader_list(self.trainer.test_dataloaders)
        ]
        self._counts = [0] * len(self.metrics.groups)
        super().on_test_epoch_start()

    def _begin_metrics(self) -> None:
        loaders = self.trainer.test_dataloaders
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        groups = groups_of(loaders, self.groups or getattr(data, "groups", None))
        detector = self.detector
        names = detector.score_names(derived=False)
        if detector.calibration is not None:
            names = complete_score_names(detector.settings)
        # Alone, a process keeps its scores on the CPU: not every device has float64.
        device = self.device if self.trainer.world_size > 1 else "cpu"
        self.metrics = SetMetrics(names, groups).to(device)
        self.accuracy = MeanMetric().to(device)

    def items(self, batch: Any, dataloader_idx: int) -> list[Item]:
        """The images of a batch, without those that a sampler repeats.

        Raises:
            UserError: If the label of an ID image is not one of the detector's classes.
        """
        parts = images_of_any_form(batch)
        size, channels = self.detector.image_size, self.detector.image_channels
        images = working_images(parts.images, size, channels)
        first, limit = self._counts[dataloader_idx], self._limits[dataloader_idx]
        self._counts[dataloader_idx] += len(images)
        count = len(images) if limit is None else max(0, min(len(images), limit - first))
        name, group = list(self.metrics.groups.items())[dataloader_idx]
        if group == ID:
            classes = self.detector.classifier.num_classes
            truth = class_labels(parts.labels, len(images), classes, name)
        else:
            truth = [-1] * count
        return [
            Item(
                image,
                truth[row],
                name,
                first + row,
                error=parts.errors[row] if parts.errors else "",
            )
            for row, image in enumerate(images[:count])
        ]

    def take(self, rows: list[Scored]) -> None:
        """Add finished images to the metrics; those that could not be read have no scores."""
        score_rows = [image.row for image in rows if not image.row.error]
        names, sets = self.metrics.score_names, list(self.metrics.groups)
        scores = torch.tensor(
            [[row.scores[name] for name in names] for row in score_rows], dtype=torch.float64
        ).reshape(len(score_rows), len(names))
        numbers = torch.tensor([sets.index(row.dataset) for row in score_rows])
        device = self.metrics.device
        self.metrics.update(scores.to(device), numbers.to(device))
        correct = torch.tensor([float(row.prediction == row.label) for row in score_rows])
        has_label = torch.tensor([float(row.label >= 0) for row in score_rows])
        self.accuracy.update(correct.to(device), has_label.to(device))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all processes."""
        super().on_test_epoch_end()
        # All processes have the same values. Lightning would otherwise recommend `sync_dist`, and
        # with it alone it would wait for a process that skips the test.
        self.log_dict(self._compute_metrics(), sync_dist=True, rank_zero_only=True)

    def _compute_metrics(self) -> dict[str, float]:
        """The metrics of all processes, which each of them has to call."""
        values = {key: float(value) for key, value in self.metrics.compute().items()}
        detector = self.detector
        if not self.all_metrics and detector.calibration is not None:
            values = main_metrics(values, self.metrics, detector.decision)
        accuracy = self.accuracy.compute()
        if accuracy.isfinite():  # there are labels
            values[f"{self.metrics.id_set}/accuracy"] = float(accuracy)
        # Another device of a later test may not have float64.
        self.metrics.reset()
        return values

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Verdicts:  # noqa: ARG002
        """The verdicts on a batch.

        Raises:
            UserError: If an image could not be read, or the detector is not calibrated.
        """
        parts = images_of_any_form(batch)
        for error in filter(None, parts.errors or ()):
            raise UserError(error)
        return self.detector.predict(parts.images, batch_size=self.batch_size)
