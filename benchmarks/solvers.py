"""Solvers of the demo's detector: reconstruction error and AUROC against network passes.

    python benchmarks/solvers.py diffguard/pretrained/demo/detector.ckpt --output docs/figures

scores the ID and OOD *validation* sets of the checkpoint's config with the checkpoint's settings,
and then with every solver at several numbers of steps. It prints a table and draws a figure: the
reconstruction error of ID images without guidance, and the AUROC of `diffguard`, averaged over the
OOD validation sets. No test set is opened.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.diffusion.solvers import SOLVERS
from diffguard_cli.rankings import column_auroc, diffguard, rank_distances
from diffguard_cli.validation import best_device, score_validation, validation_data

# Steps of the whole schedule, and how many of them the inversion makes.
POINTS = ("8:1", "3:2", "8:2", "4:3", "8:3", "16:3", "8:6", "16:12")
# Near-OOD images for validation, which the demo's config lacks.
NEAR = {"turned": "turned:validation"}


@dataclass(frozen=True)
class Measurement:
    """A solver at one number of steps.

    Attributes:
        name: Its name, or `checkpoint` for the checkpoint's own settings.
        steps: Steps of the whole schedule.
        inverted: Steps of the inversion.
        passes: Mean number of network passes per image.
        error: Root mean square error of the unguided reconstructions of ID images, at the size of
            the diffusion model; images are in [0, 1].
        auroc: AUROC of the checkpoint's `diffguard`, averaged over the OOD validation sets.
        near: The same on the near-OOD validation set alone.
        best: The highest AUROC of a distance or a pair of distances.
        pair: Their names.
        seconds: Duration of the scoring.
    """

    name: str
    steps: int
    inverted: int
    passes: float
    error: float
    auroc: float
    near: float
    best: float
    pair: str
    seconds: float

    def row(self) -> str:
        """The row of the table."""
        cells = [
            self.name,
            f"{self.steps}",
            f"{self.inverted}",
            f"{self.passes:.0f}",
            f"{self.error:.2g}",
        ]
        cells += [f"{value:.4f}" for value in (self.auroc, self.near, self.best)]
        cells += [self.pair, f"{self.seconds:.0f}"]
        return "| " + " | ".join(cells) + " |"


def sampling(settings: Mapping[str, Any], solver: str, steps: int, inverted: int) -> dict[str, Any]:
    """The settings of a detector with another solver, whose levels do not depend on the solver."""
    sampler = {"solver": solver, "steps": steps, "spacing": "trailing", "pairing": "target"}
    rest = {name: value for name, value in settings["sampler"].items() if name not in sampler}
    inversion = {**settings["inversion"], "depth": inverted / steps}
    return {**settings, "sampler": {**rest, **sampler}, "inversion": inversion}


def measure(name: str, detector: Detector, data: OODDataModule) -> Measurement:
    """Score the validation sets with a detector."""
    began = time.perf_counter()
    table, rows = score_validation(detector, data)
    settings = detector.settings
    scores = diffguard(table, settings, settings.distance)
    best = rank_distances(table, settings).candidates[0]
    first, sampler = next(iter(table)), settings.sampler
    results = [row.reconstruction for row in rows if row.row.dataset == first]
    images = torch.stack([result.job.image for result in results if result is not None])
    states = [result.unguided_state for result in results if result is not None]
    clean = detector.denoiser.encode(images.to(detector.device))
    # States are in [-1, 1].
    error = (torch.stack(states) - clean).square().mean().sqrt() / 2
    return Measurement(
        name=name,
        steps=sampler.steps,
        inverted=settings.inversion.most_steps(sampler.steps),
        passes=float(np.mean([row.row.network_passes or 0 for row in rows])),
        error=float(error),
        auroc=column_auroc(scores),
        near=column_auroc({name: scores[name] for name in (first, *NEAR)}),
        best=best.auroc,
        pair=", ".join(best.choice),
        seconds=time.perf_counter() - began,
    )


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Both quantities against the passes: a line per solver, of the best at each number."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(point.name for point in measurements):
        errors: dict[float, float] = {}
        values: dict[float, float] = {}
        for point in sorted(measurements, key=lambda point: point.passes):
            if point.name == name:
                errors[point.passes] = min(point.error, errors.get(point.passes, 1.0))
                values[point.passes] = max(point.best, values.get(point.passes, 0.0))
        axes[0].plot(list(errors), list(errors.values()), marker=".", label=name)
        axes[1].plot(list(values), list(values.values()), marker=".", label=name)
    # Exact solvers are at the level of rounding, far below the others.
    axes[0].set(ylabel="RMSE of ID reconstructions", yscale="log", ylim=(0.01, None))
    # Diverging solvers would hide the differences between the others.
    axes[1].set(ylabel="AUROC of diffguard, best pair of distances", ylim=(0.8, 1.0))
    for axis in axes:
        axis.set(xlabel="network passes per image", xscale="log")
        axis.set_xticks([5, 10, 20, 50, 100], labels=["5", "10", "20", "50", "100"])
        axis.grid(alpha=0.3)
    axes[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Score with every solver, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("--limit", type=int, default=100, help="images per validation set")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--points", nargs="+", default=list(POINTS), help="STEPS:INVERTED")
    parser.add_argument("--output", type=Path, default=Path("runs/solvers"), help="for the figure")
    parser.add_argument("--device", default=best_device(), help="default: CUDA if available")
    options = parser.parse_args(argv)
    content = read_checkpoint(options.ckpt)
    config = content["config"]["data"]
    sets = {**config["ood_validation"], **NEAR}
    data = validation_data({**config, "ood_validation": sets}, options.limit)
    names = ("solver", "steps", "inverted", "passes", "RMSE", "diffguard", "near", "best")
    print(f"| {' | '.join(names)} | distances | seconds |\n|{' --- |' * (len(names) + 2)}")
    settings = [("checkpoint", content["settings"])]
    for solver, point in itertools.product(options.solvers, options.points):
        steps, inverted = map(int, point.split(":"))
        settings.append((solver, sampling(content["settings"], solver, steps, inverted)))
    measurements = []
    for name, values in settings:
        detector = Detector.from_checkpoint(content, settings=values).to(options.device)
        measurements.append(measure(name, detector, data))
        print(measurements[-1].row(), flush=True)
    draw(measurements, options.output / "solvers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
