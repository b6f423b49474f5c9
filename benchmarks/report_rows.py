"""Time and peak memory of computing results from a score table of a million rows.

    python benchmarks/report_rows.py

writes an evaluation folder of random scores (an ID set with half of the rows, two near-OOD and two
far-OOD sets, 20 scores) and runs `evaluate.py --scores` on it in a separate process: reading,
metrics, bootstrap intervals, tables and figures. Peak memory includes the imports.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffguard.score_table.encoding import encode_rows
from diffguard.score_table.manifest import open_manifest
from diffguard.score_table.rows import HEAD_COLUMNS, TAIL_COLUMNS

ROOT = Path(__file__).parent.parent
SHARES = {"id": ("id", 4), "near_a": ("near", 1), "near_b": ("near", 1),
          "far_a": ("far", 1), "far_b": ("far", 1)}  # fmt: skip
NAMES = ["diffguard", "fusion", "fusion_baselines", *(f"score_{n}" for n in range(17))]
CHUNK = 10_000


def write_folder(folder: Path, rows: int) -> None:
    """Write an evaluation folder with `rows` rows of normally distributed scores."""
    sizes = {name: rows * parts // 8 for name, (_, parts) in SHARES.items()}
    manifest = {
        "groups": {name: group for name, (group, _) in SHARES.items()},
        "seed": 0,
        "scores": NAMES,
        "sets": {name: {"n": size} for name, size in sizes.items()},
    }
    open_manifest(folder, manifest)
    rng = np.random.default_rng(0)
    with (folder / "scores.csv").open("wb") as file:
        file.write(encode_rows([[*HEAD_COLUMNS, *NAMES, *TAIL_COLUMNS]]))
        for name, size in sizes.items():
            label = 0 if name == "id" else -1
            for start in range(0, size, CHUNK):
                count = min(CHUNK, size - start)
                scores = rng.normal(float(name != "id"), 1.0, (count, len(NAMES))).tolist()
                file.write(
                    encode_rows(
                        [name, i, f"{name}/{i:08}.png", label, 0, 0.5, *values, 9, 38, ""]
                        for i, values in enumerate(scores, start)
                    )
                )


def main() -> None:
    """Write the folder, report it, and print time and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="keep the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "scores.csv").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_folder(folder, options.rows)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, ROOT / "evaluate.py", "--scores", folder, "--output", folder / "out"],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6
    print(
        f"{options.rows:,} rows, {len(NAMES)} scores: {seconds:.0f} s ({cpu:.0f} s of CPU), "
        f"peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
