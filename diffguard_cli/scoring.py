"""Scoring sets of images into a score table, on one process or many, and what is done with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffguard.batching import fixed_batch_size
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.batch_size import find_batch_size
from diffguard.printing import say
from diffguard.score_table.manifest import run_key
from diffguard.score_table.merge import merge
from diffguard.score_table.writer import ScoreWriter
from diffguard.settings.detector import DetectorSettings
from diffguard.storage.files import append_line
from diffguard_cli.interrupts import interruptible
from diffguard_cli.scoring_folder import ScoringFolder
from lightning_modules.callbacks.scoring_bar import watched
from lightning_modules.connection import connect
from lightning_modules.detector import DetectorModule
from lightning_modules.processes import SharedWork, check_alike, check_shared, wait_until


class ScoringRun:
    """Scores a stream of images into a folder; a run that was interrupted goes on.

    Args:
        detector: What scores the images.
        data: The DataModule.
        stream: The images: what `data.stream(…)` gives, or another of its kind.
        folder: Where the tables lie.
        identity: What the scores depend on beside settings and data, for the manifest.
        derive: Whether the scores that need calibration are added.
        settings: The detector's settings as they were asked for, where calibration changes them.
        threads: CPU threads of each process; None leaves the libraries' choice.
    """

    def __init__(
        self,
        detector: Detector,
        data: Any,
        stream: Any,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        derive: bool,
        settings: DetectorSettings | None = None,
        threads: int | None = None,
    ) -> None:
        self.detector = detector
        self.data = data
        self.stream = stream
        self.folder = folder
        self.derive = derive
        asked = settings or detector.settings
        self._place = ScoringFolder(folder, data, stream, asked, detector.seed, identity, threads)
        self._work: Any = None  # a SharedWork, once the processes are connected
        self._writer: Any = None  # a ScoreWriter, from then on
        # The precision of the networks' calls, also of those made after the run.
        self.precision: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def batch_size(self) -> int:
        """Images of every network call; 0 until it is found."""
        return self._place.batch_size

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on beside settings and data."""
        return self._place.identity

    def check(self, trainer: pl.Trainer) -> None:
        """Make sure that `run` will not refuse the folder; nothing is written.

        Raises:
            UserError: If the folder belongs to another run.
        """
        self._place.check(trainer.strategy.root_device)

    def is_free(self, trainer: pl.Trainer) -> bool:
        """Whether the folder holds no scores yet, or those of this very run."""
        return self._place.is_free(trainer.strategy.root_device)

    def run(self, trainer: pl.Trainer) -> Path:
        """Score what is not scored yet.

        Returns:
            The merged table, there for every process.

        Raises:
            UserError: If a process failed. What all have finished is on disk; the first process
                tells it, the others exit.
        """
        self.precision = trainer.precision_plugin.test_step_context
        device = trainer.strategy.root_device
        module = DetectorModule(
            self.detector,
            lambda: self.batch_size,
            self._write,
            self._loader,
            derive=self.derive,
            on_smaller=lambda size: self._place.take_smaller(device, size),
        )
        try:
            with watched(trainer, self.folder, len(self.stream)):
                try:
                    with interruptible():
                        connect(trainer)
                        trainer.test(module, verbose=False)
                except UserError as error:
                    if self._work is None:  # not connected, so each process fails by itself
                        raise
                    self._work.fail(error)
                self._finish(trainer, module)
        except UserError:
            if self._work is None or trainer.is_global_zero:
                raise
            sys.exit(0)
        return self.folder / "scores.csv"

    def _finish(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        ended = time.perf_counter()
        self._writer.close()
        self._work.together("scored")
        waited = time.perf_counter() - ended
        self._work.together("timed", lambda: _append_timing(self.folder, trainer, module, waited))
        self._work.together("merged", lambda: trainer.is_global_zero and merge(self.folder))

    def _loader(self, trainer: pl.Trainer) -> Iterator[Any]:
        place, device = self._place, trainer.strategy.root_device
        self._work = SharedWork(trainer)
        self._writer = ScoreWriter(
            self.folder, trainer.global_rank, self.detector.score_names(derived=self.derive)
        )
        check_shared(self.folder, trainer, self._work)
        rest = self._work.together("opened", lambda: trainer.is_global_zero and self._open(device))
        # One process looks what is left, for a file may show late on another machine.
        rest, place.batch_size, place.threads, first, key = trainer.strategy.broadcast(
            (rest, place.batch_size, place.threads, place.machine(device), run_key(self.folder))
        )
        torch.set_num_threads(place.threads)
        wait_until(lambda: run_key(self.folder) == key, self.folder, trainer.global_rank)
        self._work.together("alike", lambda: check_alike(first, place.machine(device)))
        stream = self.stream.only(rest)
        # Small batches, so that all processes run out of images at about the same time.
        batches = self._work.batches(len(stream), fixed_batch_size(-(-self.batch_size // 4)))
        return self._until_failure(self.data.stream_loader(stream, batches))

    def _open(self, device: torch.device) -> Any:
        names = self.detector.score_names(derived=self.derive)
        return self._place.open(device, names, self._find_batch_size)

    def _find_batch_size(self) -> int:
        with self.precision():
            size = find_batch_size(self.detector.method, self.detector.baselines, len(self.stream))
        say(f"batch size: {size}", file=sys.stderr)
        return size

    def _until_failure(self, batches: Iterable[Any]) -> Iterator[Any]:
        """End with the first image that cannot be read, so that what is in flight is finished."""
        try:
            yield from batches
        except UserError as error:
            self._work.fail(error)

    def _write(self, rows: Sequence[Any]) -> None:
        self._writer.write(one.row for one in rows)


def free_run(folder: Path, trainer: pl.Trainer, make: Callable[[Path], ScoringRun]) -> ScoringRun:
    """The run in a folder, or in one beside it (`-2`, `-3`, …) where it holds other scores."""
    numbers = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    runs = (make(place) for place in chain([folder], numbers))
    return next(run for run in runs if run.is_free(trainer))


def _append_timing(
    folder: Path, trainer: pl.Trainer, module: DetectorModule, waited: float
) -> None:
    session = trainer.strategy.broadcast(time.strftime("%Y-%m-%dT%H:%M:%S"))
    if not module.scored:
        return
    line = {
        "session": session,
        "rank": trainer.global_rank,
        "images": module.scored,
        "seconds": module.seconds,
        "waited": waited,
        "fill": module.fill,
        "device": str(trainer.strategy.root_device),
        "threads": torch.get_num_threads(),
    }
    append_line(folder / "timing.jsonl", json.dumps(line))
