"""The paper's ablation on the demo's data: each technique on and off.

    python benchmarks/ablation.py runs/demo/detector.ckpt --output docs/figures

scores the ID and OOD *validation* sets of the checkpoint's config, changing one technique at a
time. It prints a table of AUROC, averaged over the OOD validation sets, and draws a figure per
technique: the AUROC, and the same images reconstructed with each setting. No test set is opened.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.methods.items import Scored
from diffguard.settings.plain import with_guidance
from diffguard_cli.rankings import column_auroc, diffguard
from diffguard_cli.validation import best_device, score_validation, validation_data

# On 16 by 16 pixels, a larger scale only fools a classifier without adversarial training.
_CLASSIFIER = {"guidance": "classifier", "classifier.scale": 0.1}
_NOISY = {"guidance": "classifier", "classifier.blend": False, "classifier.model": "noisy"}
# Changes to the checkpoint's settings: technique -> variant -> dotted setting -> value.
TECHNIQUES: dict[str, dict[str, dict[str, Any]]] = {
    "guidance": {
        "classifier-free": {},
        "classifier": _CLASSIFIER,
    },
    "blend": {
        "off": _CLASSIFIER | {"classifier.blend": False},
        "on": _CLASSIFIER,
    },
    "crops": {
        "off": _CLASSIFIER,
        "4 of 12 to 16 px": _CLASSIFIER
        | {"classifier.crops.number": 4, "classifier.crops.size": 12},
    },
    "classifier scale": {
        f"{s:g}": _CLASSIFIER | {"classifier.scale": s} for s in (0.03, 0.1, 0.3, 1.0)
    },
    "noisy classifier": {
        f"noisy, scale {s:g}": _NOISY | {"classifier.scale": s} for s in (0.1, 1.0, 3.0, 10.0)
    },
    "mask": {
        "off": {},
        "CAM above 0.2": {"classifier_free.cam_cut": 0.2},
        "CAM above 0.5": {"classifier_free.cam_cut": 0.5},
    },
    "depth": {f"{d:g}": {"inversion.depth": d} for d in (0.3, 0.5, 0.7, 0.9)},
    "scale": {f"{s:g}": {"classifier_free.scale": s} for s in (0.5, 1.0, 1.5, 3.0, 6.0)},
    "early stop": {
        "off": {},
        "PSNR below 8 dB": {"early_stop.thresholds": {"psnr": 8.0}, "inversion.depth": 0.9},
        "PSNR below 6 dB": {"early_stop.thresholds": {"psnr": 6.0}, "inversion.depth": 0.9},
    },
}
SHOWN = 9


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some dotted keys set to other values."""
    result = copy.deepcopy(dict(settings))
    if "guidance" in changes:
        result = with_guidance(result, changes["guidance"], {})
    for name, value in changes.items():
        *path, last = name.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def draw(technique: str, results: Mapping[str, tuple[float, list[Scored]]], folder: Path) -> None:
    """A figure of one technique: a row of reconstructions per variant, with its AUROC."""
    variants = list(results)
    figure, grid = plt.subplots(
        len(variants) + 1,
        SHOWN,
        figsize=(SHOWN + 2, 1.08 * (len(variants) + 1) + 0.7),
        layout="constrained",
    )
    for row, variant in enumerate([None, *variants]):
        shown = results[variants[0] if variant is None else variant][1]
        for column, example in enumerate(shown):
            axes = grid[row][column]
            axes.set_axis_off()
            result = example.reconstruction
            if result is not None:
                image = example.item.image if variant is None else result.guided
                axes.imshow(image.movedim(0, -1).squeeze(-1).cpu(), cmap="gray", vmin=0, vmax=1)
            if row == 0:
                name = example.row.dataset.replace("_", " ")
                axes.set_title(f"{fill(name, 12)}\nas {example.row.prediction}", fontsize=7)
        label = "input" if variant is None else f"{variant}\nAUROC {results[variant][0]:.3f}"
        grid[row][0].text(
            -0.15, 0.5, label, transform=grid[row][0].transAxes, ha="right", va="center", fontsize=8
        )
    figure.suptitle(technique)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"ablation-{technique.replace(' ', '-')}.png", dpi=110)
    plt.close(figure)


def chosen(rows: Sequence[Scored], names: Sequence[str]) -> list[Scored]:
    """Images spread over each set, the same for every variant."""
    each = SHOWN // len(names)
    result = []
    for name in names:
        members = sorted((r for r in rows if r.row.dataset == name), key=lambda r: r.row.index)
        result += [members[k * len(members) // each] for k in range(each)]
    return result


def main(argv: Sequence[str]) -> int:
    """Score every variant, print the table and draw the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("--limit", type=int, default=100, help="images per validation set")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="for figures")
    parser.add_argument("--device", default=best_device(), help="default: CUDA if available")
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES))
    options = parser.parse_args(argv)
    content = read_checkpoint(options.ckpt)
    data = validation_data(content["config"]["data"], options.limit)
    names = [images.name for images in data.evaluation_sets("validation")]
    print("| technique | variant | diffguard | passes | depth | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for technique in options.techniques:
        results: dict[str, tuple[float, list[Scored]]] = {}
        for variant, changes in TECHNIQUES[technique].items():
            if "noisy" in variant and content["noisy_classifier"] is None:
                continue
            detector = Detector.from_checkpoint(
                content, settings=changed(content["settings"], changes)
            )
            detector.to(options.device)
            began = time.perf_counter()
            table, rows = score_validation(detector, data)
            distance = detector.settings.distance
            value = column_auroc(diffguard(table, detector.settings, distance))
            results[variant] = (value, chosen(rows, names))
            passes = np.mean([image.row.network_passes or 0 for image in rows])
            depth = np.mean([image.row.stop_step or 0 for image in rows])
            seconds = time.perf_counter() - began
            cells = [technique, variant, f"{value:.4f}", f"{passes:.1f}", f"{depth:.1f}"]
            print("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |", flush=True)
        draw(technique, results, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
