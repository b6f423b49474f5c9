"""Scoring sets of images into a score table, on one process or many, and what is done with it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffguard.batching import fixed_batch_size
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.files import write_error
from diffguard.manifest import open_manifest, read_manifest, write_manifest
from diffguard.scores import ScoreWriter, merge, read_done
from diffguard.settings import to_dict
from lightning_modules.batch_size import AUTO, begun_with, find_batch_size, too_large
from lightning_modules.cli import interruptible
from lightning_modules.detector import DetectorModule
from lightning_modules.scoring_progress import watch
from lightning_modules.sharing import SharedWork


class ScoringRun:
    """Scores a stream of images into a folder; a run that was interrupted goes on.

    Args:
        detector: What scores the images.
        data: The DataModule.
        stream: The images: what `data.stream(…)` gives, or another of its kind.
        folder: Where the tables lie.
        identity: What the scores depend on beside settings and data, for the manifest.
        derive: Whether the scores that need calibration are added.
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
    ) -> None:
        self.detector = detector
        self.data = data
        self.stream = stream
        self.folder = folder
        self.asked: int | str = data.batch_size
        self.batch_size = 0 if self.asked == AUTO else fixed_batch_size(data.batch_size)
        self.derive = derive
        self.names = detector.score_names(derived=derive)
        self.identity = dict(identity)
        self._work: Any = None  # a SharedWork, once the processes are connected
        self._writer: Any = None  # a ScoreWriter, from then on
        # The precision of the networks' calls, also of those made after the run.
        self.precision: Callable[[], AbstractContextManager[None]] = nullcontext

    def manifest(self) -> dict[str, Any]:
        """What the table belongs to."""
        return {
            **self.identity,
            "settings": to_dict(self.detector.settings),
            "seed": self.detector.seed,
            # The batch shape decides on the last bits of a score.
            "batch_size": self.batch_size,
            "batch_size_asked": self.asked,
            "scores": self.names,
            "image_size": self.data.image_size,
            "channels": self.data.channels,
            "sets": {
                one.name: {"n": len(one), "fingerprint": one.fingerprint()}
                for one in self.stream.sets
            },
        }

    def run(self, trainer: pl.Trainer) -> Path:
        """Score what is not scored yet.

        Returns:
            The merged table, there for every process.

        Raises:
            UserError: If a process failed. What all have finished is on disk; the first process
                tells it, the others exit.
        """
        self.precision = trainer.precision_plugin.test_step_context
        module = DetectorModule(
            self.detector,
            lambda: self.batch_size,
            self._write,
            self._loader,
            derive=self.derive,
            on_smaller=self._take_smaller,
        )
        watch(trainer, self.folder, len(self.stream))
        try:
            with interruptible():
                trainer.test(module, verbose=False)
        except UserError as error:
            if self._work is None:  # the processes are not connected, so each fails by itself
                raise
            self._work.fail(error)
        try:
            self._finish(trainer, module)
        except UserError:
            if trainer.is_global_zero:
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
        self._work = SharedWork(trainer)
        self._writer = ScoreWriter(self.folder, trainer.global_rank, self.names)
        rest = self._work.together("opened", lambda: trainer.is_global_zero and self._open())
        # One process looks what is left, for a file may show late on another machine.
        rest, self.batch_size = trainer.strategy.broadcast((rest, self.batch_size))
        stream = self.stream.only(rest)
        # Small batches, so that all processes run out of images at about the same time.
        batches = self._work.batches(len(stream), fixed_batch_size(-(-self.batch_size // 4)))
        return self._until_failure(self.data.stream_loader(stream, batches))

    def _open(self) -> Any:
        self._settle_batch_size()
        open_manifest(self.folder, self.manifest())
        return self.stream.without(read_done(self.folder)).select

    def _until_failure(self, batches: Iterable[Any]) -> Iterator[Any]:
        """End with the first image that cannot be read, so that what is in flight is finished."""
        try:
            yield from batches
        except UserError as error:
            self._work.fail(error)

    def _settle_batch_size(self) -> None:
        """Take what the run began with, or what was asked for; `auto` is found once."""
        stored = read_manifest(self.folder)
        frozen = begun_with(stored, self.asked)
        if frozen is not None:
            self.batch_size, self.asked = frozen, stored["batch_size_asked"]
        elif self.asked == AUTO:
            with self.precision():
                self.batch_size = find_batch_size(self.detector, len(self.stream))
            print(f"batch size: {self.batch_size}", file=sys.stderr)  # noqa: T201

    def _take_smaller(self, batch_size: int) -> None:
        """Freeze a smaller batch size, as long as there is no row, of an earlier run neither."""
        if read_done(self.folder):
            raise UserError(too_large(self.batch_size))
        self.batch_size = batch_size
        write_manifest(self.folder, self.manifest())

    def _write(self, rows: Sequence[Any]) -> None:
        self._writer.write(one.row for one in rows)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    path = folder / "timing.jsonl"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise write_error(path, error) from error
