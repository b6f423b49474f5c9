"""Choose distance, depth, scale and steps of a detector on validation sets only.

    python benchmarks/choose_settings.py runs/demo/detector.ckpt

scores the ID and the OOD *validation* sets of the checkpoint's config with every combination of a
grid, and prints a table of the AUROC of each distance, averaged over the OOD validation sets. No
test set is opened. The table for the embedded default is in `docs/settings.md`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.ood import IDSets, OODDataModule, OODSets
from diffguard.calibration import Calibration
from diffguard.checkpoint import detector_from, read_checkpoint
from diffguard.detector import Detector
from diffguard.ood_metrics import auroc
from diffguard.settings import DetectorSettings
from lightning_modules.detector import items_of

# Shares of the schedule, scales and steps that are tried.
DEPTHS = (0.3, 0.5, 0.7, 0.9)
SCALES = (1.0, 2.0, 3.0, 5.0)
STEPS = (10, 16)


def validation_data(config: Mapping[str, Any], limit: int | None) -> OODDataModule:
    """The config's data without its test sets."""
    values = {**config, "limit": limit}
    values["id"] = IDSets(**{**values["id"], "test": None})
    values["ood"] = OODSets()
    return OODDataModule(**values)


def score_validation(
    detector: Detector, data: OODDataModule
) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """Scores of the validation sets, set -> score -> `(n,)`, and network passes per image."""
    stream = detector.stream(data.batch_size, derive=False)
    rows = []
    for batch in data.stream_loader(data.stream("validation")):
        rows += stream.push(items_of(batch))
    rows = [one.row for one in rows + stream.flush()]
    table: dict[str, dict[str, np.ndarray]] = {}
    for one in data.evaluation_sets("validation"):
        own = sorted((r for r in rows if r.dataset == one.name), key=lambda r: r.index)
        names = detector.score_names(derived=False)
        table[one.name] = {name: np.array([r.scores[name] for r in own]) for name in names}
    return table, float(np.mean([r.network_passes for r in rows]))


def mean_auroc(table: Mapping[str, Mapping[str, np.ndarray]], score: str) -> float:
    """AUROC of a score against each OOD validation set, averaged; the first set is the ID one."""
    ident, *ood = [torch.from_numpy(scores[score]) for scores in table.values()]
    return float(np.mean([float(auroc(ident, one)) for one in ood]))


def add_derived(table: Mapping[str, dict[str, np.ndarray]], settings: DetectorSettings) -> None:
    """Add the scores that a calibration on the ID validation images derives."""
    ident = next(iter(table.values()))
    scores = {name: torch.from_numpy(values) for name, values in ident.items()}
    calibration = Calibration.fit(scores, settings)
    for values in table.values():
        values |= calibration.derive(values)


def settings_of(grid: argparse.Namespace) -> Iterator[tuple[int, float, float]]:
    """Every combination of steps, depth and scale."""
    yield from itertools.product(grid.steps, grid.depths, grid.scales)


def main(argv: Sequence[str]) -> int:
    """Score the grid and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("--limit", type=int, default=None, help="images per set")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--depths", type=float, nargs="+", default=DEPTHS)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--distances", nargs="+", default=None, help="default: the checkpoint's")
    grid = parser.parse_args(argv)
    content = read_checkpoint(grid.ckpt)
    data = validation_data(content["config"]["data"], grid.limit)
    head: list[str] | None = None
    for steps, depth, scale in settings_of(grid):
        settings = {**content["settings"]}
        settings["sampler"] = {**settings["sampler"], "steps": steps}
        settings["inversion"] = {**settings["inversion"], "depth": depth}
        settings["guidance"] = {**settings["guidance"], "scale": scale}
        if grid.distances:
            settings |= {"distances": grid.distances, "distance": grid.distances[:1]}
        detector = detector_from(content, settings=settings)
        began = time.perf_counter()
        table, passes = score_validation(detector, data)
        add_derived(table, detector.settings)
        names = list(next(iter(table.values())))
        if head is None:
            head = ["steps", "depth", "scale", "passes", "seconds", *names]
            print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
        cells = [f"{mean_auroc(table, name):.4f}" for name in names]
        seconds = time.perf_counter() - began
        row = [str(steps), f"{depth:g}", f"{scale:g}", f"{passes:.0f}", f"{seconds:.0f}", *cells]
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
