"""Cost of scoring relative to its networks, as ratios within one run.

    python benchmarks/speed.py runs/demo/detector.ckpt

scores test images of the demo on the real evaluation path, with both forms of guidance and with the
methods `diffnb` and `msma`, and prints one table. It takes less than ten minutes on two cores.

    python benchmarks/speed.py --network unet256 --batches 8 16 32

does the same with a 256×256 U-Net of the paper's size and random weights, for a GPU.

Times run from the first image read to the last row written. The bare time is the time of the same
network calls with the same shapes, repeated on their own (see `network_calls.py`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_plain import best_batch, measure_exactness, measure_plain
from measured import Row, Scoring, Table, formula, score
from network_calls import NetworkCalls, networks_of
from subjects import Subject, embedded, large, write_images

from datamodules.config import DataConfig, IDSets
from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.quiet import quiet_libraries
from lightning_modules.trainer import scoring_trainer

FORMS = ("classifier_free", "classifier")
METHODS = "diffnb, msma"
# Number of files of each format that are read from disk.
FILES = 4096


def measure_form(
    subject: Subject, form: str, trainer: TrainerConfig, batch_size: int, device: torch.device
) -> tuple[list[Row], Scoring, NetworkCalls, Detector]:
    """(b) Wall over bare time, (c) fill and (d) passes of one form of guidance, or of `METHODS`."""
    detector = subject.detector(form, device)
    parameters = sum(p.numel() for p in detector.denoiser.parameters())
    limit = 1.05 if device.type == "cuda" and parameters >= 20e6 else 1.10
    paired = device.type == "cpu"
    calls = NetworkCalls(networks_of(detector), paired=paired)
    with calls.noted():
        scoring = score(detector, subject.data, subject.stream, trainer, batch_size)
    if paired:
        bare = calls.paired_seconds
        scoring.seconds -= bare
    else:
        with scoring_trainer(trainer, "bare").precision_plugin.test_step_context():
            bare = calls.bare_seconds()
    ratio = scoring.seconds / bare
    expected = formula(detector, scoring.table, form)
    wrong = int((scoring.table.network_passes != expected).sum())
    depths = np.unique(scoring.table.stop_step)
    rows = [
        Row(f"{form}: images", len(scoring.table)),
        Row(f"{form}: seconds", scoring.seconds),
        Row(f"{form}: bare seconds of the same network calls", bare),
        Row(f"{form}: (b) wall / bare", ratio, f"<= {limit}", ratio <= limit),
        Row(
            f"{form}: (c) fill until the stream ends",
            scoring.steady_fill,
            ">= 0.98",
            scoring.steady_fill >= 0.98,
        ),
        Row(f"{form}: (c) fill of the whole run", scoring.fill),
        Row(f"{form}: smallest stopping step", int(depths[0])),
        Row(f"{form}: largest stopping step", int(depths[-1])),
        Row(f"{form}: (d) passes per image", float(scoring.table.network_passes.mean())),
        Row(f"{form}: (d) images that differ from the formula", wrong, "0", wrong == 0),
        Row(f"{form}: (e) images per second", scoring.images_per_second),
    ]
    return rows, scoring, calls, detector


def measure_size(
    arguments: argparse.Namespace, trainer: TrainerConfig, size: int
) -> tuple[float, float]:
    """(e) Images per second and (f) peak memory in MiB at a batch size, in a separate process."""
    quiet_libraries()
    device = prepare(trainer)
    with tempfile.TemporaryDirectory() as folder:
        arguments.images = max(arguments.size_images, size)
        subject = open_subject(arguments, Path(folder))
        detector = subject.detector("classifier_free", device)
        scoring = score(detector, subject.data, subject.stream, trainer, size)
    if device.type == "cuda":
        return scoring.images_per_second, torch.cuda.max_memory_allocated() / 2**20
    return scoring.images_per_second, peak_memory()


def peak_memory() -> float:
    """Peak resident memory of this process in MiB, on Linux.

    `getrusage` starts with the peak of the parent process.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10


def measure_sizes(arguments: argparse.Namespace, trainer: TrainerConfig) -> list[Row]:
    """(e) and (f) for each batch size."""
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
    """Images per second from disk with two workers, also divided by the scoring rate."""
    side, channels = subject.data.image_size, subject.data.channels
    first = next(iter(subject.data.stream_loader(subject.stream)))["image"]
    rows = []
    for suffix in ("jpg", "png"):
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), first, FILES, suffix)
            data = OODDataModule(
                DataConfig(
                    id=IDSets(), image_size=side, channels=channels, batch_size=64, num_workers=2
                )
            )
            stream = data.image_stream([folder])
            began = time.perf_counter()
            count = sum(len(batch["label"]) for batch in data.stream_loader(stream))
            reading = count / (time.perf_counter() - began)
        rows += [
            Row(f"reading {suffix}, 2 workers: images per second", reading),
            Row(f"reading {suffix} / scoring", reading / rate, ">= 5", reading >= 5 * rate),
        ]
    return rows


def open_subject(arguments: argparse.Namespace, folder: Path) -> Subject:
    """The subject of the command line."""
    if arguments.network == "embedded":
        return embedded(arguments.ckpt, arguments.images)
    return large(folder / "photographs", arguments.images, arguments.side, arguments.width)


def prepare(trainer: TrainerConfig) -> torch.device:
    """Set the number of threads, and return the trainer's device."""
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    return scoring_trainer(trainer, "device").strategy.root_device


def about(arguments: argparse.Namespace, device: torch.device) -> Mapping[str, Any]:
    """The conditions of the measurement."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    return {
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "device": f"{device.type} {name}".strip(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, nargs="?", default=Path("runs/demo/detector.ckpt"))
    parser.add_argument("--network", choices=("embedded", "unet256"), default="embedded")
    parser.add_argument("--side", type=int, default=256, help="side of unet256's images in pixels")
    parser.add_argument("--width", type=int, default=256, help="channels of unet256's first stage")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=[8, 16, 32, 64, 128],
        help="sizes to try",
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 16, 32, 64, 128])
    parser.add_argument("--size_images", type=int, default=256, help="images per batch size")
    # A batch of one cannot use a second thread, and waking it costs time.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    return parser


def main(argv: Sequence[str]) -> int:
    """Measure everything; print and write the table; 1 if a target is missed."""
    arguments = build_parser().parse_args(argv)
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
        precision = scoring_trainer(trainer, "plain").precision_plugin.test_step_context
        detector = subject.detector("classifier_free", device)
        size, times = best_batch(detector, arguments.batches, precision)
        table.add([Row("bare denoiser: best batch", size)])
        # A quarter of the images suffices for the ratio.
        quarter = argparse.Namespace(**{**vars(arguments), "images": arguments.images // 4})
        some = open_subject(quarter, Path(folder) / "methods")
        table.add(measure_form(some, METHODS, trainer, size, device)[0])
        for form in FORMS:
            rows, ours, calls, detector = measure_form(subject, form, trainer, size, device)
            table.add(rows)
        table.add(measure_plain(subject, detector, ours, calls, size, times, precision))
        table.add(measure_exactness(subject, detector, size))
        table.add(measure_reading(subject, ours.images_per_second))
    table.add(measure_sizes(arguments, trainer))
    table.add([Row("minutes in total", (time.perf_counter() - began) / 60)])
    content = {"about": about(arguments, device), "rows": [vars(row) for row in table]}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.met is not False for row in table) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
