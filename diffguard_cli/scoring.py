"""Scoring a stream of images into a score table, on one process or many."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.batching import fixed_batch_size
from diffguard.errors import UserError
from diffguard.methods.adaptive_stream import AdaptiveStream
from diffguard.methods.items import Item, Scored, items_of
from diffguard.methods.scorer import Scorer
from diffguard.processes.agreement import check_alike, wait_until
from diffguard.report.candidates import Candidates
from diffguard.score_table.manifest import run_key
from diffguard.score_table.merge import merge
from diffguard.score_table.writer import ScoreWriter
from diffguard.scores.fusion import Columns
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.selection import Selection
from diffguard_cli.album import Album
from diffguard_cli.derived_scores import add_derived
from diffguard_cli.finished_run import FinishedRun
from diffguard_cli.interrupts import interruptible
from diffguard_cli.measurements import apply_compilation, measured
from diffguard_cli.scoring_folder import OpenFolder, ScoringFolder
from diffguard_cli.scoring_time import record_time
from lightning_modules.callbacks.scoring_bar import watched
from lightning_modules.connection import connect
from lightning_modules.processes import SharedWork, check_shared
from lightning_modules.stream import StreamModule

if TYPE_CHECKING:
    from datamodules.evaluation_stream import EvaluationStream
    from datamodules.ood import OODDataModule


class ScoringRun:
    """Scores a stream of images into a folder; an interrupted run resumes.

    Args:
        detector: The detector.
        data: The DataModule.
        stream: The images.
        folder: The folder of the tables.
        identity: What the scores depend on in addition to settings and data, for the manifest.
        derive: Whether the scores that need calibration are added to the merged table.
        settings: The detector's settings before anything was fitted; defaults to the detector's.
        threads: CPU threads of each process; None leaves the libraries' choice.
        decision_only: Compute only what the decision needs.
        candidates: Scorer -> the images whose reconstructions are kept as thumbnails; None for
            no image.
    """

    def __init__(
        self,
        detector: Scorer,
        data: OODDataModule,
        stream: EvaluationStream,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        derive: bool,
        settings: DetectorSettings | None = None,
        threads: int | None = None,
        decision_only: bool = False,
        candidates: Callable[[Scorer], Candidates | None] = lambda _scorer: None,
    ) -> None:
        self.decision_only, self._candidates = decision_only, candidates
        self.detector, self.data, self.stream = detector, data, stream
        self.folder, self.derive = folder, derive
        settings, seed = settings or detector.settings, detector.seed
        lack = self._lack if derive else None
        self._place = ScoringFolder(folder, data, stream, settings, seed, identity, threads, lack)

    @property
    def selection(self) -> Selection:
        """The scores of the table."""
        name = self.detector.decision if self.decision_only else None
        return Selection(self.detector.settings, name)

    def _lack(self, scores: Columns) -> NDArray[np.bool_]:
        """Whether images lack a selected score, `(N,)`."""
        selection = self.selection
        is_missing = np.isnan([scores[name] for name in selection.plain]).any(axis=0)
        return is_missing & self.detector.in_doubt(scores, selection)

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on in addition to settings and data."""
        return self._place.identity

    def check(self, trainer: pl.Trainer) -> None:
        """Make sure that `run` will accept the folder; nothing is written.

        Raises:
            UserError: If the folder belongs to another run.
        """
        self._place.check(trainer.strategy.root_device)

    def is_free(self, trainer: pl.Trainer) -> bool:
        """Whether the folder holds no scores yet, or those of this very run."""
        return self._place.is_free(trainer.strategy.root_device)

    def run(self, trainer: pl.Trainer) -> FinishedRun:
        """Score the images that have no scores yet.

        Returns:
            The finished run; every process can read its table.

        Raises:
            UserError: If a process failed. All finished rows are on disk. The first process raises,
                the others exit.
        """
        with watched(trainer, self.folder, len(self.stream)):
            with interruptible():
                connect(trainer)
            work = SharedWork(trainer)
            try:
                return self._score(trainer, work)
            except UserError:
                if trainer.is_global_zero:
                    raise
            sys.exit(0)

    def open(self, trainer: pl.Trainer, work: SharedWork) -> OpenFolder:
        """Open the folder on all processes; each of them calls this.

        Raises:
            UserError: On all processes, if the folder belongs to another run or cannot be written,
                or if the processes differ.
        """
        device, rank = trainer.strategy.root_device, trainer.global_rank
        check_shared(self.folder, trainer, work)
        names = self.detector.score_names(derived=False)
        measure = partial(measured, self.detector, self.selection, trainer)
        place = work.together(
            "opened", lambda: self._place.open(device, names, measure) if rank == 0 else None
        )
        # The first process alone looks for what is left: others may see a file late.
        place, key = trainer.strategy.broadcast((place, run_key(self.folder)))
        torch.set_num_threads(place.threads)
        apply_compilation(self.detector, place.compile)
        wait_until(lambda: run_key(self.folder) == key, self.folder, rank)
        machine = self._place.machine(device, place.threads)
        work.together("alike", lambda: check_alike(place.machine, machine))
        return place

    def batches(self, place: OpenFolder, work: SharedWork) -> Iterator[Any]:
        """The batches of images that this process scores."""
        stream = self.stream.only(place.rest)
        # Small batches, so that all processes run out of images at about the same time.
        positions = work.batches(len(stream), fixed_batch_size(math.ceil(place.batch_size / 4)))
        return _until_failure(self.data.stream_loader(stream, positions), work)

    def _album(self, rank: int) -> Album | None:
        candidates = self._candidates(self.detector)
        return None if candidates is None else Album(self.folder, rank, candidates)

    def _score(self, trainer: pl.Trainer, work: SharedWork) -> FinishedRun:
        # Derived scores are added to the merged table, which a later run may derive anew.
        names, rank = self.detector.score_names(derived=False), trainer.global_rank
        optional = set(names) - set(self.selection.plain)
        with ScoreWriter(
            self.folder, rank, names, has_stages=self.derive, optional=optional
        ) as writer:
            module = ScoringModule(self, work, writer, self._album(rank))
            try:
                with interruptible():
                    trainer.test(module, verbose=False)
            except UserError as error:
                work.fail(error)
        ended = time.perf_counter()
        work.together("scored")
        waited = time.perf_counter() - ended
        times = (module.stream, module.seconds, waited)
        work.together("timed", lambda: record_time(self.folder, trainer, *times))
        work.together("merged", self._merge if trainer.is_global_zero else (lambda: None))
        precision = trainer.precision_plugin.test_step_context
        place, table = module.place, self.folder / "scores.csv"
        return FinishedRun(table, place.batch_size, precision, place.compile)

    def _merge(self) -> None:
        path = merge(self.folder)
        if self.derive:
            add_derived(path, self.detector, self.selection)


class ScoringModule(StreamModule):
    """Scores the images that a run has left, together with the other processes, into its table.

    Args:
        run: The run.
        work: What the processes share.
        writer: The table of this process.
        album: Keeps pictures of reconstructions; None keeps none.

    Attributes:
        place: The run's folder, from the setup on.
    """

    place: OpenFolder

    def __init__(
        self, run: ScoringRun, work: SharedWork, writer: ScoreWriter, album: Album | None
    ) -> None:
        super().__init__(run.detector)
        self.run, self.work, self.writer, self.album = run, work, writer, album

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Open the folder; Lightning has connected the processes and set the device by now."""
        self.place = self.run.open(self.trainer, self.work)

    def test_dataloader(self) -> Iterator[Any]:
        """The batches of this process."""
        return self.run.batches(self.place, self.work)

    def open_stream(self) -> AdaptiveStream:
        """A stream that halves its batch if this is the only process."""
        only = None if self.place.completes else self.run.selection.name
        return AdaptiveStream(
            partial(self.detector.stream, derive=self.run.derive, only=only),
            self.place.batch_size,
            shrinks=self.trainer.world_size == 1,
            on_smaller=self.place.shrink,
        )

    def items(self, batch: Any, _dataloader_idx: int) -> list[Item]:
        """The images of a batch."""
        return items_of(batch)

    def take(self, rows: list[Scored]) -> None:
        """Append finished images to the table."""
        if self.album is not None:
            # Before the rows, so that an image that counts as scored has its pictures.
            self.album.add(rows)
        self.writer.write(image.row for image in rows)


def _until_failure(batches: Iterable[Any], work: SharedWork) -> Iterator[Any]:
    """Stop at the first image that cannot be read, so that what is in flight is finished."""
    try:
        yield from batches
    except UserError as error:
        work.fail(error)
