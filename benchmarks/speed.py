"""Measure what scoring costs beside its networks, as ratios within one run.

    python benchmarks/speed.py runs/demo/detector.ckpt

scores test images of the embedded default in the real evaluation path, with both forms of guidance,
and prints one table; it takes less than ten minutes on two cores.

    python benchmarks/speed.py --network unet256 --batch_size 32

does the same with a 256×256 U-Net of the paper's size and random weights, for a GPU.

Times run from the first image read to the last row written. The bare time is that of the same
network calls in the same shapes and order, made once more with nothing in between.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network_calls import NetworkCalls, networks_of, seconds_per_row
from plain_loop import score_plainly
from subjects import Subject, embedded, large, write_images

from datamodules.ood import IDSets, OODDataModule
from datamodules.stream import EvaluationStream
from diffguard.detector import Detector
from diffguard.score_table import ScoreTable
from diffguard.scoring import ScoreStream
from lightning_modules.cli import quiet_libraries
from lightning_modules.detector import items_of
from lightning_modules.evaluation import ScoringRun, read_timing
from lightning_modules.settings import TrainerConfig
from lightning_modules.trainers import scoring_trainer

FORMS = ("classifier_free", "classifier")
GAIN_SIZES = (8, 16, 32, 64, 128)
# Files that are read from disk, in each format.
FILES = 4096
PLAIN_IMAGES = 128


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


def measure_form(
    subject: Subject, form: str, trainer: TrainerConfig, batch_size: int, device: torch.device
) -> tuple[list[Row], Scoring, Detector]:
    """(b) wall over bare time, (c) fill, (d) passes, of one form of guidance."""
    detector = subject.detector(form, device)
    parameters = sum(p.numel() for p in detector.denoiser.parameters())
    limit = 1.05 if device.type == "cuda" and parameters >= 20e6 else 1.10
    calls = NetworkCalls(networks_of(detector))
    with calls.noted():
        found = score(detector, subject.data, subject.stream, trainer, batch_size)
    with scoring_trainer(trainer, "bare").precision_plugin.test_step_context():
        bare = calls.bare_seconds()
    ratio = found.seconds / bare
    expected = formula(detector, found.table, form)
    wrong = int((found.table.network_passes != expected).sum())
    depths = np.unique(found.table.stop_step)
    rows = [
        Row(f"{form}: images", len(found.table)),
        Row(f"{form}: seconds", found.seconds),
        Row(f"{form}: bare seconds of the same network calls", bare),
        Row(f"{form}: (b) wall / bare", ratio, f"<= {limit}", ratio <= limit),
        Row(
            f"{form}: (c) fill until the stream ends",
            found.steady_fill,
            ">= 0.98",
            found.steady_fill >= 0.98,
        ),
        Row(f"{form}: (c) fill of the whole run", found.fill),
        Row(f"{form}: stopping steps, least", int(depths[0])),
        Row(f"{form}: stopping steps, most", int(depths[-1])),
        Row(f"{form}: (d) passes per image", float(found.table.network_passes.mean())),
        Row(f"{form}: (d) images off the formula", wrong, "0", wrong == 0),
        Row(f"{form}: (e) images per second", found.images_per_second),
    ]
    return rows, found, detector


def measure_plain(
    subject: Subject,
    detector: Detector,
    ours: Scoring,
    batch_size: int,
    device: torch.device,
    precision: Any,
) -> list[Row]:
    """(a) ours against a plain loop, on every n-th of the same images."""
    subject.data.batch_size = batch_size
    stream = subject.stream.share(0, max(1, len(subject.stream) // PLAIN_IMAGES))
    scores: dict[tuple[str, int], dict[str, float]] = {}
    began = time.perf_counter()
    with torch.inference_mode(), precision():
        for batch in subject.data.stream_loader(stream):
            items = items_of(batch)
            for item, found in zip(items, score_plainly(detector, items), strict=True):
                scores[item.dataset, item.index] = found
    seconds = (time.perf_counter() - began) / len(scores)
    table, worst = ours.table, 0.0
    for row in range(len(table)):
        found = scores.get((table.dataset_names[table.dataset[row]], int(table.index[row])), {})
        for name, value in found.items():
            worst = max(worst, abs(value - table.scores[name][row]) / max(abs(value), 1e-2))
    network, channels = detector.denoiser.network, detector.denoiser.channels
    side, null = detector.denoiser.state_size, detector.denoiser.null_class

    def inputs(size: int) -> Any:
        labels = None if null is None else torch.full((size,), null, device=device)
        x = torch.randn(size, channels, side, side, device=device)
        return (x, torch.full((size,), 500, device=device)), {"class_labels": labels}

    with precision():
        rates = {size: seconds_per_row(network, inputs, size) for size in (1, *GAIN_SIZES)}
    best = min(GAIN_SIZES, key=lambda size: rates[size])
    gain, speedup = rates[1] / rates[best], seconds * ours.images_per_second
    return [
        Row("plain loop: images", len(scores)),
        Row("plain loop: (e) images per second", 1 / seconds),
        Row("plain loop: largest relative difference of a score", worst, "<= 1e-4", worst <= 1e-4),
        Row("bare denoiser: best batch", best),
        Row("bare denoiser: gain from batch 1 to the best", gain),
        Row("(a) ours / plain loop", speedup),
        Row("(a) the same over the bare gain", speedup / gain, ">= 1.3", speedup / gain >= 1.3),
    ]


def measure_size(
    arguments: argparse.Namespace, trainer: TrainerConfig, size: int
) -> tuple[float, float]:
    """(e) images per second and (f) peak memory in MiB at a batch size; in a process of its own."""
    quiet_libraries()
    device = prepare(trainer)
    with tempfile.TemporaryDirectory() as folder:
        arguments.images = max(arguments.size_images, size)
        subject = open_subject(arguments, Path(folder))
        detector = subject.detector("classifier_free", device)
        found = score(detector, subject.data, subject.stream, trainer, size)
    if device.type == "cuda":
        return found.images_per_second, torch.cuda.max_memory_allocated() / 2**20
    return found.images_per_second, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_sizes(arguments: argparse.Namespace, trainer: TrainerConfig) -> list[Row]:
    """(e) and (f) for every batch size."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for size in arguments.sizes:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rate, memory = pool.submit(measure_size, arguments, trainer, size).result()
        rows += [
            Row(f"batch {size}: (e) images per second", rate),
            Row(f"batch {size}: (f) peak memory in MiB", memory),
        ]
    return rows


def measure_reading(subject: Subject, rate: float) -> list[Row]:
    """Images a second from disk with two workers, and how many times the scoring rate that is."""
    side, channels = subject.data.image_size, subject.data.channels
    first = next(iter(subject.data.stream_loader(subject.stream)))["image"]
    rows = []
    for suffix in ("jpg", "png"):
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), first, FILES, suffix)
            data = OODDataModule(
                id=IDSets(), image_size=side, channels=channels, batch_size=64, num_workers=2
            )
            stream = data.folder_stream(folder)
            began = time.perf_counter()
            count = sum(len(batch["label"]) for batch in data.stream_loader(stream))
            found = count / (time.perf_counter() - began)
        rows += [
            Row(f"reading {suffix}, 2 workers: images per second", found),
            Row(f"reading {suffix} / scoring", found / rate, ">= 5", found >= 5 * rate),
        ]
    return rows


def open_subject(arguments: argparse.Namespace, folder: Path) -> Subject:
    """The subject that the command line names."""
    if arguments.network == "embedded":
        return embedded(arguments.ckpt, arguments.images)
    return large(folder / "photographs", arguments.images, arguments.side, arguments.width)


def prepare(trainer: TrainerConfig) -> torch.device:
    """Set the threads; the device that the trainer runs on."""
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    return scoring_trainer(trainer, "device").strategy.root_device


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


def about(arguments: argparse.Namespace, device: torch.device) -> Mapping[str, Any]:
    """What the figures belong to."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    return {
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "device": f"{device.type} {name}".strip(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("ckpt", type=Path, nargs="?", default=Path("runs/demo/detector.ckpt"))
    found.add_argument("--network", choices=("embedded", "unet256"), default="embedded")
    found.add_argument("--side", type=int, default=256, help="of unet256: pixels")
    found.add_argument("--width", type=int, default=256, help="of unet256: channels")
    found.add_argument("--images", type=int, default=1000)
    found.add_argument("--batch_size", type=int, default=64)
    found.add_argument("--sizes", type=int, nargs="*", default=[8, 16, 32, 64, 128, 256])
    found.add_argument("--size_images", type=int, default=256, help="images at each of the sizes")
    found.add_argument("--threads", type=int, default=None)
    found.add_argument("--precision", default="32-true")
    found.add_argument("--accelerator", default="auto")
    found.add_argument("--output", type=Path, default=Path("speed.json"))
    return found


def main(argv: Sequence[str]) -> int:
    """Measure everything, print the table and write it; 1 if a target is missed."""
    arguments = parser().parse_args(argv)
    quiet_libraries()
    trainer = TrainerConfig(
        accelerator=arguments.accelerator,
        devices=1,
        precision=arguments.precision,
        threads=arguments.threads,
        progress=False,
    )
    began, device = time.perf_counter(), prepare(trainer)
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        subject = open_subject(arguments, Path(folder))
        for form in FORMS:
            rows, ours, detector = measure_form(
                subject, form, trainer, arguments.batch_size, device
            )
            table.add(rows)
        precision = scoring_trainer(trainer, "plain").precision_plugin.test_step_context
        table.add(measure_plain(subject, detector, ours, arguments.batch_size, device, precision))
        table.add(measure_reading(subject, ours.images_per_second))
    table.add(measure_sizes(arguments, trainer))
    table.add([Row("minutes in all", (time.perf_counter() - began) / 60)])
    content = {"about": about(arguments, device), "rows": [vars(row) for row in table]}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.met is not False for row in table) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
