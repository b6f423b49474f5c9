"""Scoring sets of images into a score table, on one process or many, and what is done with it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffguard.batching import fixed_batch_size
from diffguard.detector import Detector
from diffguard.manifest import open_manifest
from diffguard.scores import ScoreWriter, merge, read_done
from diffguard.settings import to_dict
from lightning_modules.cli import interruptible
from lightning_modules.detector import DetectorModule


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
        self.batch_size = fixed_batch_size(data.batch_size)
        self.derive = derive
        self.names = detector.score_names(derived=derive)
        self.identity = dict(identity)
        self._writer: ScoreWriter | None = None

    def manifest(self) -> dict[str, Any]:
        """What the table belongs to."""
        return {
            **self.identity,
            "settings": to_dict(self.detector.settings),
            "seed": self.detector.seed,
            # The batch shape decides on the last bits of a score.
            "batch_size": self.batch_size,
            "scores": self.names,
            "sets": {
                one.name: {"n": len(one), "fingerprint": one.fingerprint()}
                for one in self.stream.sets
            },
        }

    def run(self, trainer: pl.Trainer) -> Path:
        """Score what is not scored yet.

        Returns:
            The merged table, there for every process.
        """
        module = DetectorModule(
            self.detector, self.batch_size, self._write, self._loader, derive=self.derive
        )
        with interruptible():
            trainer.test(module, verbose=False)
        if self._writer is not None:
            self._writer.close()
        _append_timing(self.folder, trainer, module)
        trainer.strategy.barrier("scored")
        if trainer.is_global_zero:
            merge(self.folder)
        trainer.strategy.barrier("merged")
        return self.folder / "scores.csv"

    def _loader(self, trainer: pl.Trainer) -> Any:
        if trainer.is_global_zero:
            open_manifest(self.folder, self.manifest())
        trainer.strategy.barrier("manifest")
        rest = self.stream.without(read_done(self.folder))
        # Whoever is late must still find what the others found.
        trainer.strategy.barrier("shares")
        self._writer = ScoreWriter(self.folder, trainer.global_rank, self.names)
        return self.data.stream_loader(rest.share(trainer.global_rank, trainer.world_size))

    def _write(self, rows: Sequence[Any]) -> None:
        if self._writer is not None:
            self._writer.write(one.row for one in rows)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_timing(folder: Path) -> dict[str, float]:
    """Images, wall seconds and fill of all sessions that scored into a folder."""
    path = folder / "timing.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # A process that was killed in the middle of a line leaves half of one, and the next line
    # goes on behind it.
    whole = [json.loads(line[line.rindex("{") :]) for line in lines if line.endswith("}")]
    images = sum(line["images"] for line in whole)
    seconds: dict[str, float] = {}
    for line in whole:
        seconds[line["session"]] = max(seconds.get(line["session"], 0.0), line["seconds"])
    filled = sum(line["fill"] * line["images"] for line in whole)
    return {
        "images": images,
        "seconds": sum(seconds.values()),
        "fill": filled / images if images else 1.0,
    }


def _append_timing(folder: Path, trainer: pl.Trainer, module: DetectorModule) -> None:
    session = trainer.strategy.broadcast(time.strftime("%Y-%m-%dT%H:%M:%S"))
    if not module.scored:
        return
    line = {
        "session": session,
        "rank": trainer.global_rank,
        "images": module.scored,
        "seconds": module.seconds,
        "fill": module.fill,
        "device": str(trainer.strategy.root_device),
        "threads": torch.get_num_threads(),
    }
    with (folder / "timing.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
