"""The table of the README: AUROC of several seeds, and what DiffGuard adds to the baselines.

    for seed in 0 1 2 3 4; do
        python train.py --seed $seed --run_dir runs/seed$seed
    done
    diffguard tune runs/seed0/detector.ckpt --output runs/tuned.yaml
    for seed in 0 1 2 3 4; do
        python evaluate.py --ckpt runs/seed$seed/detector.ckpt --config runs/tuned.yaml
    done
    python benchmarks/seeds.py runs/seed?/evaluation

reads `results.json` of each evaluation. `fusion_baselines` combines the baselines that are best
without DiffGuard (`detector.comparator`), so `fusion − fusion_baselines` is the gain of DiffGuard.
The last rows compare `fusion` with the single baseline that has the highest AUROC on the test sets
of each run, which could not have been chosen beforehand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from diffguard.errors import UserError
from diffguard.storage.json_files import read_json

Results = Mapping[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in %; a single value alone."""
    text = f"{100 * mean(values):.1f}"
    return f"{text} ± {100 * stdev(values):.1f}" if len(values) > 1 else text


def auroc_rows(runs: Sequence[Results]) -> list[list[str]]:
    """Header and rows: a score per row, an OOD set or mean of a group per column.

    Raises:
        UserError: If the runs differ in their scores or sets.
    """
    tables = [{(row["score"], row["dataset"]): row["auroc"] for row in run["rows"]} for run in runs]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise UserError("the evaluations differ in their scores or sets: evaluate them alike")
    scores, sets = ([*dict.fromkeys(key[place] for key in tables[0])] for place in (0, 1))
    rows = [["score", *sets]]
    for score in scores:
        cells = [spread([table[score, name] for table in tables]) for name in sets]
        rows.append([f"`{score}`", *cells])
    return rows


def gain_rows(runs: Sequence[Results]) -> list[list[str]]:
    """Header and rows: a group per row, the gain of `fusion` in each run with its interval."""
    rows = [["gain", "mean", *(f"run {number}" for number in range(len(runs)))]]
    for comparisons in zip(*(run["comparisons"] for run in runs), strict=True):
        first = comparisons[0]
        cells = [
            f"{100 * c['difference']:+.1f} ({100 * c['ci95'][0]:+.1f} to {100 * c['ci95'][1]:+.1f})"
            for c in comparisons
        ]
        name = f"`{first['score']}` − `{first['against']}`, {first['group']}"
        rows.append([name, spread([c["difference"] for c in comparisons]), *cells])
    return rows


def single_rows(runs: Sequence[Results]) -> list[list[str]]:
    """A group per row, the difference of `fusion` to the best single baseline of each run."""
    rows = []
    for group in dict.fromkeys(comparison["group"] for comparison in runs[0]["comparisons"]):
        differences, cells = [], []
        for run in runs:
            table = {row["score"]: row["auroc"] for row in run["rows"] if row["dataset"] == group}
            best = max(run["settings"]["config"]["detector"]["baselines"], key=table.__getitem__)
            differences.append(table["fusion"] - table[best])
            cells.append(f"{100 * differences[-1]:+.1f} (`{best}`)")
        rows.append([f"`fusion` − best single baseline, {group}", spread(differences), *cells])
    return rows


def main(argv: Sequence[str]) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="evaluation folders, one per seed")
    folders = parser.parse_args(argv).folders
    runs = [read_json(folder / "results.json", dict[str, Any]) for folder in folders]
    print("AUROC in %, mean ± standard deviation")
    for rows in (auroc_rows(runs), gain_rows(runs) + single_rows(runs)):
        print()
        for number, cells in enumerate(rows):
            print("| " + " | ".join(cells) + " |")
            if not number:
                print("|" + " --- |" * len(cells))
    settings = runs[0]["settings"]["config"]["detector"]
    print(f"\naccuracy on ID test images: {spread([run['id']['accuracy'] for run in runs])}")
    for key in ("distance", "fused", "comparator", "knn_k", "vim_dim"):
        print(f"{key}: {settings.get(key)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
