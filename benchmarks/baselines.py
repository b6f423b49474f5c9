"""Time and memory of the baselines that are fitted on features of ID training images.

    python benchmarks/baselines.py --images 131072 --width 2048 --classes 1000

Random features stand in for those of a classifier. The memory is the peak during a fit and a batch
of 64 images beyond the features themselves, from Linux' `VmHWM`, also as a multiple of their bytes;
the times are those of the fit and of the batch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from diffguard.scores.baseline_table import FITTED_BASELINES
from diffguard.scores.baselines import Baselines
from diffguard.scores.reference import Reference

BATCH = 64


def memory(key: str) -> int:
    """A line of the process's status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=2_048)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--baselines", nargs="+", default=FITTED_BASELINES)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    centers = torch.randn(arguments.classes, arguments.width)
    labels = torch.arange(arguments.images) % arguments.classes
    features = torch.empty(arguments.images, arguments.width)
    for rows, classes in zip(features.split(4096), labels.split(4096), strict=True):
        rows.copy_((centers[classes] + torch.randn(len(rows), arguments.width)).relu())
    head = nn.Linear(arguments.width, arguments.classes).requires_grad_(requires_grad=False)
    # The nearest center wins, so that each class is recognized.
    head.weight.copy_(centers.relu())
    head.bias.copy_(-head.weight.square().sum(1) / 2)
    reference, batch = Reference(features, labels), features[:BATCH].clone()
    logits = head(batch)
    # The libraries are imported before anything is measured.
    small = Reference(features[: 2 * arguments.classes], labels[: 2 * arguments.classes])
    Baselines(arguments.baselines, small, head, knn_k=1).score(logits, batch)
    print(f"features: {features.nbytes / 2**30:.2f} GiB")
    print("| baseline | memory beyond the features, GiB | multiple | fit, s | 64 images, s |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.baselines:
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        began = time.perf_counter()
        baselines = Baselines([name], reference, head)
        fitted = time.perf_counter()
        baselines.score(logits, batch)
        ended = time.perf_counter()
        peak = memory("VmHWM") - before
        share = f"{peak / 2**30:.2f} | {peak / features.nbytes:.2f}"
        times = f"{fitted - began:.1f} | {ended - fitted:.2f}"
        print(f"| {name} | {share} | {times} |", flush=True)


if __name__ == "__main__":
    main()
