"""How long processes wait for the slowest one: `python benchmarks/balance.py`.

The images stop after 1 to 50 inversion steps. Each of four processes has a network that sleeps for
a fixed time per call, as if a GPU were busy. Images are distributed on request, or in strided
shares; their depths are in random order, or every fourth image is deep. A process waits from its
last row until all processes have finished.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIDE, STEPS, PROCESSES = 8, 50, 4


def depths_of(count: int, order: str) -> np.ndarray:
    """Inversion steps of each image, 1 to 50; both orders contain the same numbers."""
    depths = np.random.default_rng(0).integers(1, STEPS + 1, count)
    if order == "every fourth deep":
        return np.sort(depths).reshape(PROCESSES, -1).T.ravel()
    return depths


def score(
    folder: Path, count: int, order: str, shares: str, batch_size: int, seconds: float
) -> None:
    """Score as one of the processes."""
    import torch
    from stand_in import build, settings

    from datamodules.config import DataConfig, IDSets
    from datamodules.evaluation_stream import EvaluationStream
    from datamodules.image_set import TensorSet, no_labels
    from datamodules.ood import OODDataModule
    from diffguard.settings.sections import EarlyStopSettings
    from diffguard.training.trainer_config import TrainerConfig
    from diffguard_cli.scoring import ScoringRun
    from lightning_modules.processes import SharedWork
    from lightning_modules.quiet import quiet_libraries
    from lightning_modules.trainer import scoring_trainer

    quiet_libraries()
    torch.set_num_threads(1)
    if shares == "strided":

        def strided(self: SharedWork, total: int, size: int) -> object:
            mine = list(range(self._trainer.global_rank, total, PROCESSES))
            return (mine[begin : begin + size] for begin in range(0, len(mine), size))

        SharedWork.batches = strided
    stop = EarlyStopSettings(thresholds={"psnr": 0.0})
    detector = build(settings(STEPS, baselines=[], early_stop=stop), SIDE, 3, seconds)
    # The second channel of an image encodes the noise level at which its inversion stops.
    detector.models.qualities = {"psnr": lambda state, image: image[:, 1, 0, 0] - state[:, 0, 0, 0]}
    levels = (1 - detector.models.plan.alphas).sqrt()
    below = torch.cat([levels.new_zeros(1), levels[:-1]])
    steps = torch.from_numpy(depths_of(count, order)) - 1
    images = torch.full((count, 3, SIDE, SIDE), 0.5)
    images[:, 1] = (((levels + below)[steps] / 2 + 1) / 2).to(images)[:, None, None]

    class Images(TensorSet):
        def image(self, index: int) -> torch.Tensor:
            return self._images[index]

    sources = IDSets(test="folder:none")
    data = OODDataModule(
        DataConfig(sources, root=".", image_size=SIDE, channels=3, batch_size=batch_size)
    )
    stream = EvaluationStream([Images("made", images, no_labels(count))], data.prepare)
    config = TrainerConfig(accelerator="cpu", threads=1, progress=False)
    run = ScoringRun(detector, data, stream, folder, {}, derive=False)
    run.run(scoring_trainer(config, "balance"))


def measure(count: int, order: str, shares: str, batch_size: int, seconds: float) -> str:
    """Run the processes and return a row of the table."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        words = [name, count, order, shares, batch_size, seconds]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": PROCESSES}
        running = []
        for rank in range(PROCESSES):
            variables = common | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": PROCESSES}
            environment = os.environ | {key: str(value) for key, value in variables.items()}
            command = [sys.executable, __file__, "--one", *map(str, words)]
            running.append(subprocess.Popen(command, env=environment))
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit("a process failed")
        lines = [json.loads(line) for line in (Path(name) / "timing.jsonl").open()]
    waited = np.array([line["waited"] for line in lines])
    run = max(line["seconds"] + line["waited"] for line in lines)
    images = "/".join(str(line["images"]) for line in sorted(lines, key=lambda line: line["rank"]))
    return (
        f"| {order} | {shares} | {images} | {run:.1f} | {waited.max():.2f} | "
        f"{waited.mean() / run:.1%} |"
    )


def main() -> None:
    """Compare both ways of sharing in both orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--call-seconds", type=float, default=0.012)
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        folder, count, order, shares, batch_size, seconds = arguments.one
        score(Path(folder), int(count), order, shares, int(batch_size), float(seconds))
        return
    print("| depths | shares | images per process | run (s) | longest wait (s) | mean wait / run |")
    print("| --- | --- | --- | --- | --- | --- |")
    for order in ("random", "every fourth deep"):
        for shares in ("strided", "on request"):
            options = (arguments.batch_size, arguments.call_seconds)
            print(measure(arguments.images, order, shares, *options), flush=True)


if __name__ == "__main__":
    main()
