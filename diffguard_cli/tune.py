"""Choose distance, depth, scale and steps of a detector on validation sets only.

    python benchmarks/choose_settings.py runs/demo/detector.ckpt

scores the ID and the OOD *validation* sets of the checkpoint's config with every combination of a
grid of steps, depth and scale. An image can fail to come back as a picture, or in what the
classifier makes of it, so `diffguard` is the mean of one distance of each kind: for each setting
the pair is found that has the highest AUROC averaged over the OOD validation sets, and then the
baselines with which `fusion` has. The winner is the setting with the highest `diffguard`. No test
set is opened. The tables for the embedded default are in `docs/settings.md`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.ood import IDSets, OODDataModule, OODSets
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.methods.items import Scored
from diffguard.report.metrics import auroc
from diffguard.scores.calibration import Calibration
from diffguard.scores.distances import DISTANCES
from diffguard.settings.detector import DetectorSettings
from lightning_modules.detector import items_of

# Shares of the schedule, scales and steps that are tried.
DEPTHS = (0.3, 0.5, 0.7, 0.9)
# Above 1, where classifier-free guidance begins.
SCALES = (1.5, 3.0)
STEPS = (10,)
# Rows of a ranking that are printed.
SHOWN = 8


def validation_data(config: Mapping[str, Any], limit: int | None) -> OODDataModule:
    """The config's data without its test sets."""
    values = {**config, "limit": limit}
    values["id"] = IDSets(**{**values["id"], "test": None})
    values["ood"] = OODSets()
    return OODDataModule(**values)


def best_device() -> str:
    """The accelerator that is there, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def score_validation(
    detector: Detector, data: OODDataModule
) -> tuple[dict[str, dict[str, np.ndarray]], list[Scored]]:
    """Scores of the validation sets, set -> score -> `(n,)`, and the scored images."""
    stream = detector.stream(data.batch_size, derive=False)
    scored: list[Scored] = []
    for batch in data.stream_loader(data.stream("validation")):
        scored += stream.push(items_of(batch))
    scored += stream.flush()
    names = detector.score_names(derived=False)
    table: dict[str, dict[str, np.ndarray]] = {}
    for one in data.evaluation_sets("validation"):
        own = sorted((s.row for s in scored if s.row.dataset == one.name), key=lambda r: r.index)
        table[one.name] = {name: np.array([r.scores[name] for r in own]) for name in names}
    return table, scored


def mean_auroc(table: Mapping[str, Mapping[str, np.ndarray]], score: str) -> float:
    """AUROC of a score against each OOD validation set, averaged; the first set is the ID one."""
    ident, *ood = [torch.from_numpy(scores[score]) for scores in table.values()]
    return float(np.mean([float(auroc(ident, one)) for one in ood]))


def add_derived(table: Mapping[str, dict[str, np.ndarray]], settings: DetectorSettings) -> None:
    """Add the scores that a calibration on the ID validation images derives."""
    ident = next(iter(table.values()))
    scores = {name: torch.from_numpy(values) for name, values in ident.items()}
    calibration = Calibration.fit(scores, settings.fusion_rule())
    for values in table.values():
        values |= calibration.derive(values)


def pairs_of_kinds(settings: DetectorSettings) -> Iterator[list[str]]:
    """Every distance of pictures with every distance of what the classifier makes of them."""
    names = [*settings.distances, *(f"unguided/{name}" for name in settings.unguided)]
    seen = [DISTANCES[n.rpartition("/")[2].partition("@")[0]].needs != "images" for n in names]
    for first, semantic in zip(names, seen, strict=True):
        yield from ([first, n] for n, other in zip(names, seen, strict=True) if semantic > other)


def subsets(names: Sequence[str]) -> Iterator[list[str]]:
    """All subsets of at least one name."""
    for size in range(1, len(names) + 1):
        yield from map(list, itertools.combinations(names, size))


def rank_subsets(
    table: Mapping[str, dict[str, np.ndarray]], settings: DetectorSettings
) -> tuple[list[tuple[float, list[str]]], list[tuple[float, list[str]]]]:
    """Which distances `diffguard`, and then which baselines `fusion`, does best with.

    Returns:
        Mean AUROC and names, best first: of pairs of distances, and of any number of baselines.
    """
    own = []
    for names in pairs_of_kinds(settings):
        add_derived(table, replace(settings, distance=names))
        own.append((mean_auroc(table, "diffguard"), names))
    own.sort(reverse=True)
    fused = []
    for names in subsets(settings.baselines):
        add_derived(table, replace(settings, distance=own[0][1], fused=names))
        fused.append((mean_auroc(table, "fusion"), names))
    fused.sort(reverse=True)
    return own, fused


def print_ranking(title: str, ranking: Sequence[tuple[float, list[str]]]) -> None:
    """Print the best of a ranking."""
    print(f"\n| {title} | AUROC |\n| --- | --- |")
    for value, names in ranking[:SHOWN]:
        print(f"| {', '.join(names)} | {value:.4f} |", flush=True)


def main(argv: Sequence[str]) -> int:
    """Score the grid and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("--limit", type=int, default=None, help="images per set")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--depths", type=float, nargs="+", default=DEPTHS)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--device", default=best_device(), help="default: the accelerator there is")
    grid = parser.parse_args(argv)
    content = read_checkpoint(grid.ckpt)
    data = validation_data(content["config"]["data"], grid.limit)
    head = [
        "steps",
        "depth",
        "scale",
        "passes",
        "seconds",
        "diffguard",
        "distances",
        "fusion",
        "with",
    ]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    results = []
    for steps, depth, scale in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = {**content["settings"]}
        settings["sampler"] = {**settings["sampler"], "steps": steps}
        settings["inversion"] = {**settings["inversion"], "depth": depth}
        settings["guidance"] = {**settings["guidance"], "scale": scale}
        detector = Detector.from_checkpoint(content, settings=settings).to(grid.device)
        began = time.perf_counter()
        table, scored = score_validation(detector, data)
        seconds = time.perf_counter() - began
        passes = np.mean([one.row.network_passes or 0 for one in scored])
        own, fused = rank_subsets(table, detector.settings)
        results.append((own, fused))
        row = [str(steps), f"{depth:g}", f"{scale:g}", f"{passes:.0f}", f"{seconds:.0f}"]
        row += [f"{own[0][0]:.4f}", ", ".join(own[0][1])]
        row += [f"{fused[0][0]:.4f}", ", ".join(fused[0][1])]
        print("| " + " | ".join(row) + " |", flush=True)
    own, fused = max(results, key=lambda result: result[0][0][0])
    print_ranking("diffguard at the best setting: distances", own)
    print_ranking("fusion of the first of them with baselines", fused)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
