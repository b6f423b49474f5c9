"""Speed and AUROC with lower precision, channels-last and compilation.

    python benchmarks/precision.py runs/demo/detector.ckpt --limit 250

scores the same test images with each variant. The calibration is that of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.report.metrics import auroc
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.timing import read_timing
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.scoring import ScoringRun
from lightning_modules.quiet import quiet_libraries
from lightning_modules.trainer import scoring_trainer

# Name -> precision of the trainer, settings of the detector.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("32-true", {}),
    "fp32, channels-last": ("32-true", {"channels_last": True}),
    "fp32, compiled": ("32-true", {"compile": True}),
    "bf16-mixed": ("bf16-mixed", {}),
    "bf16-mixed, channels-last": ("bf16-mixed", {"channels_last": True}),
    "bf16-mixed, compiled": ("bf16-mixed", {"compile": True}),
}
SCORES = ("diffguard", "fusion")


def aurocs(table: ScoreTable, groups: dict[str, str], score: str) -> dict[str, float]:
    """AUROC of a score against each OOD set."""
    ident, *others = list(groups)
    values = torch.from_numpy(table.scores[score])
    return {
        name: float(auroc(values[table.rows(ident)], values[table.rows(name)])) for name in others
    }


def main(argv: Sequence[str]) -> int:
    """Score with every variant; print and write the table; 1 if an AUROC changes too much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--limit", type=int, default=250, help="images per set")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("precision.json"))
    arguments = parser.parse_args(argv)
    quiet_libraries()
    content = read_checkpoint(arguments.ckpt)
    config = dict(content["config"]["data"])
    config |= {"id": IDSets(**config["id"]), "ood": OODSets(**config["ood"])}
    config |= {"limit": arguments.limit, "batch_size": arguments.batch_size}
    data, few = (
        OODDataModule(DataConfig(**config)),
        OODDataModule(DataConfig(**config | {"limit": 4})),
    )
    trainer = TrainerConfig(
        accelerator=arguments.accelerator, devices=1, threads=arguments.threads, progress=False
    )
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    print("| variant | images/s | " + " | ".join(f"{s} AUROC | change" for s in SCORES) + " |")
    print("| --- |" + " --- |" * (1 + 2 * len(SCORES)))
    first: dict[str, dict[str, float]] = {}
    rows, worst = [], 0.0
    for name in arguments.variants:
        precision, settings = VARIANTS[name]
        detector = Detector.from_checkpoint(content, settings=content["settings"] | settings)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder)
            config = replace(trainer, precision=precision)
            # Compilation at the first call counts as start-up.
            first_call = ScoringRun(
                detector, few, few.stream("test"), output / "few", {}, derive=True
            )
            first_call.run(scoring_trainer(config, name))
            run = ScoringRun(detector, data, data.stream("test"), output / "all", {}, derive=True)
            table = ScoreTable.read(run.run(scoring_trainer(config, name)).table)
            timing = read_timing(output / "all")
        values = {score: aurocs(table, data.groups, score) for score in SCORES}
        first = first or values
        changes = {s: max(abs(values[s][n] - first[s][n]) for n in values[s]) for s in SCORES}
        worst = max(worst, *changes.values())
        speed = timing["images"] / timing["seconds"]
        row = {"variant": name, "images_per_second": speed, "auroc": values, "change": changes}
        rows.append(row)
        cells = [f"{np.mean(list(values[s].values())):.4f} | {changes[s]:.4f}" for s in SCORES]
        print(f"| {name} | {speed:.1f} | " + " | ".join(cells) + " |", flush=True)
    arguments.output.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"largest change of an AUROC: {worst:.4f}, expected less than 0.003")
    return 0 if worst < 0.003 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
