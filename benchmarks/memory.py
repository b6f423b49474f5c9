"""Memory while scoring 1,000 and 100,000 images: `python benchmarks/memory.py`.

Each size runs in its own process, with a model of two layers and images that are generated from
their index, so that only the program's bookkeeping can grow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 8


def resident() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def score(count: int) -> None:
    """Score images and print the memory at the first and the last row."""
    import torch
    from stand_in import build, settings

    from datamodules.config import DataConfig, IDSets
    from datamodules.evaluation_stream import EvaluationStream
    from datamodules.image_set import ImageSet, no_labels
    from datamodules.ood import OODDataModule
    from diffguard.methods.items import Scored
    from diffguard.training.trainer_config import TrainerConfig
    from diffguard_cli.scoring import ScoringModule, ScoringRun
    from lightning_modules.quiet import quiet_libraries
    from lightning_modules.trainer import scoring_trainer

    quiet_libraries()

    class MadeImages(ImageSet):
        """Images generated from their index, with the paths of files."""

        def image(self, index: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(index)
            return torch.rand(1, SIDE, SIDE, generator=generator)

        def content(self, index: int) -> int:
            return index

        def path(self, index: int) -> str:
            return f"class_{index % 1000:03}/image_{index:08}.JPEG"

    data = OODDataModule(
        DataConfig(IDSets(test="folder:none"), root=".", image_size=SIDE, batch_size=512)
    )
    stream = EvaluationStream([MadeImages("made", no_labels(count))], data.prepare)
    detector = build(settings(steps=2, baselines=["msp"]), SIDE)
    config = TrainerConfig(accelerator="cpu", devices=1, threads=1, progress=False)
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = ScoringRun(detector, data, stream, Path(folder), {}, derive=False)
        take = ScoringModule.take

        def measured(module: ScoringModule, rows: list[Scored]) -> None:
            take(module, rows)
            if rows:
                memory.append(resident())

        ScoringModule.take = measured
        began = time.perf_counter()
        run.run(scoring_trainer(config, "memory"))
    seconds = time.perf_counter() - began
    print(f"{count},{memory[0]:.1f},{memory[-1]:.1f},{max(memory):.1f},{seconds:.0f}", flush=True)


def main() -> None:
    """Compare two sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[1_000, 100_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        score(arguments.one)
        return
    print("| images | MB at the first rows | at the last rows | highest | seconds |")
    print("| --- | --- | --- | --- | --- |")
    last = []
    for size in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(size)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(result.stderr)
        fields = result.stdout.split()[-1].split(",")
        print(f"| {' | '.join(fields)} |", flush=True)
        last.append(float(fields[2]))
    print(f"largest difference at the last rows: {max(last) - min(last):.1f} MB")


if __name__ == "__main__":
    main()
