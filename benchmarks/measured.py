"""Evaluations that are measured, and the table of what was found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.ood import OODDataModule
from datamodules.stream import EvaluationStream
from diffguard.detector import Detector
from diffguard.score_table import ScoreTable
from diffguard.scoring import ScoreStream
from diffguard.timing import read_timing
from lightning_modules.evaluation import ScoringRun
from lightning_modules.settings import TrainerConfig
from lightning_modules.trainers import scoring_trainer


@dataclass
class Row:
    """A line of the table.

    Attributes:
        name: What is measured.
        value: The figure.
        target: What to reach; empty where there is nothing to reach.
        met: Whether it is reached; None without target.
    """

    name: str
    value: float
    target: str = ""
    met: bool | None = None


class Table(list[Row]):
    """Rows that are printed as they come."""

    def __init__(self) -> None:
        super().__init__()
        print("| measured | value | target | met |\n| --- | --- | --- | --- |", flush=True)

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows and print them."""
        self.extend(rows)
        for row in rows:
            met = {True: "yes", False: "NO", None: ""}[row.met]
            value = f"{row.value:d}" if isinstance(row.value, int) else f"{row.value:.4g}"
            print(f"| {row.name} | {value} | {row.target} | {met} |", flush=True)


@dataclass
class Scoring:
    """An evaluation that was measured.

    Attributes:
        table: Its rows.
        seconds: From the first image read to the last row written.
        fill: Share of the rows of all denoiser calls that were no padding.
        steady_fill: The same until the stream of images ended.
    """

    table: ScoreTable
    seconds: float
    fill: float
    steady_fill: float

    @property
    def images_per_second(self) -> float:
        """Images scored a second."""
        return len(self.table) / self.seconds


@contextmanager
def watched() -> Iterator[list[float]]:
    """Collect the fill of a detector's streams at the moment that their images end."""
    fills: list[float] = []
    flush = ScoreStream.flush

    def noting(stream: ScoreStream) -> Any:
        engine = stream.reconstructor
        fills.append(engine.rows / max(1, engine.calls * engine.batch_size))
        return flush(stream)

    ScoreStream.flush = noting  # type: ignore[method-assign]
    try:
        yield fills
    finally:
        ScoreStream.flush = flush  # type: ignore[method-assign]


def score(
    detector: Detector,
    data: OODDataModule,
    stream: EvaluationStream,
    trainer: TrainerConfig,
    batch_size: int,
) -> Scoring:
    """Score images as `evaluate.py` does, into a folder that is then forgotten."""
    data.batch_size = batch_size
    with tempfile.TemporaryDirectory() as name, watched() as fills:
        folder = Path(name)
        run = ScoringRun(detector, data, stream, folder, {}, derive=False)
        path = run.run(scoring_trainer(trainer, "speed"))
        timing = read_timing(folder)
        return Scoring(ScoreTable.read(path), timing["seconds"], timing["fill"], fills[0])


def formula(detector: Detector, table: ScoreTable, form: str) -> np.ndarray:
    """The least passes of each image, from its stopping step; all of them are guided."""
    plan, settings = detector.plan, detector.settings.guidance
    stop = torch.from_numpy(table.stop_step).long() - 1
    synthesis = plan.start_index(stop, settings.extra_start, settings.skip).numpy() + 1
    unguided = bool(detector.settings.unguided)
    if form == "classifier":
        return table.stop_step + synthesis + unguided * (synthesis - 1)
    return table.stop_step + 2 * synthesis + unguided * (synthesis - 1)


def differences(
    plain: Mapping[tuple[str, int], Mapping[str, float]], table: ScoreTable
) -> tuple[float, float]:
    """Differences of ours from the plain loop's scores, the worst of all distances.

    Returns:
        Of each distance's scores as a vector, relative, by the Euclidean norm; and of a single
        score, as a multiple of what another batch size may change: 1e-3 of it and 1e-5.
    """
    places = [
        (table.dataset_names[d], int(i)) for d, i in zip(table.dataset, table.index, strict=True)
    ]
    rows = [row for row, place in enumerate(places) if place in plain]
    norm = single = 0.0
    for name in next(iter(plain.values())):
        theirs = np.array([plain[places[row]][name] for row in rows])
        apart = table.scores[name][rows] - theirs
        norm = max(norm, float(np.linalg.norm(apart) / np.linalg.norm(theirs)))
        single = max(single, float((np.abs(apart) / (1e-3 * np.abs(theirs) + 1e-5)).max()))
    return norm, single
