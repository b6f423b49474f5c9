"""Measured evaluations, and the table of results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.evaluation_stream import EvaluationStream
from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard.methods.stream import ScoreStream
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.timing import read_timing
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.values import steps_at
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.scoring import ScoringRun
from lightning_modules.trainer import scoring_trainer


@dataclass
class Row:
    """A row of the table.

    Attributes:
        name: What is measured.
        value: The figure.
        target: The target; empty if there is none.
        met: Whether the target is met; None without a target.
    """

    name: str
    value: float
    target: str = ""
    met: bool | None = None


class Table(list[Row]):
    """A table that prints its rows as they are added."""

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
    """A measured evaluation.

    Attributes:
        table: Its score table.
        seconds: From the first image read to the last row written.
        fill: Share of the rows of all denoiser calls that are not padding.
        steady_fill: The same, until the stream of images ends.
    """

    table: ScoreTable
    seconds: float
    fill: float
    steady_fill: float

    @property
    def images_per_second(self) -> float:
        """Images scored per second."""
        return len(self.table) / self.seconds


@contextmanager
def watched() -> Iterator[list[float]]:
    """Record the fill of a detector's streams at the end of their images."""
    fills: list[float] = []
    flush = ScoreStream.flush

    def noting(stream: ScoreStream) -> Any:
        engine = stream.engine
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
    """Score images as `evaluate.py` does, into a temporary folder."""
    data.config = replace(data.config, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as name, watched() as fills:
        folder = Path(name)
        run = ScoringRun(detector, data, stream, folder, {}, derive=False)
        result = run.run(scoring_trainer(trainer, "speed"))
        timing = read_timing(folder)
        return Scoring(ScoreTable.read(result.table), timing["seconds"], timing["fill"], fills[0])


def formula(detector: Detector, table: ScoreTable, form: str) -> np.ndarray:
    """The minimum number of passes of each image, from its stopping step; all are guided."""
    methods = _passes_of_methods(detector.settings)
    plan, settings = detector.models.plan, detector.settings.synthesis
    stop = torch.from_numpy(table.stop_step).long() - 1
    synthesis = plan.start_index(stop, settings.extra_start, settings.skip).numpy() + 1
    unguided = bool(detector.settings.unguided)
    if form == "classifier":
        return table.stop_step + synthesis + unguided * (synthesis - 1) + methods
    return table.stop_step + 2 * synthesis + unguided * (synthesis - 1) + methods


def _passes_of_methods(settings: DetectorSettings) -> int:
    """The passes of `diffnb` and `msma` with DDIM."""
    diffnb, passes = settings.diffnb, 0
    if "diffnb" in settings.methods:
        passes += 2 * diffnb.repeats * steps_at(diffnb.depth, settings.sampler.steps)
    if "msma" in settings.methods:
        passes += settings.msma.levels
    return passes


def difference(first: Mapping[Any, Mapping[str, float]], second: Mapping[Any, Any]) -> float:
    """The largest relative difference of two sets of scores, over all distances.

    Each distance's scores are compared as a vector, by the Euclidean norm.
    """
    worst = 0.0
    for name in next(iter(first.values())):
        a, b = (np.array([scores[place][name] for place in first]) for scores in (first, second))
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    return worst


def scores_by_image(table: ScoreTable) -> dict[tuple[str, int], dict[str, float]]:
    """(set, index) of each image -> its scores."""
    places = zip(table.dataset, table.index, strict=True)
    return {
        (table.dataset_names[d], int(i)): {n: float(v[row]) for n, v in table.scores.items()}
        for row, (d, i) in enumerate(places)
    }
