"""Tiny evaluations on real processes, some of which are killed at a chosen byte.

The processes are forked from a server that has imported everything once. They get their ranks from
the environment variables of launchers.
"""

import io
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

import diffguard.score_table.writer
import diffguard.storage.files
from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.errors import USER_ERROR
from diffguard.processes import agreement
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli import scoring_folder
from diffguard_cli.exit_codes import run
from diffguard_cli.scoring import ScoringRun
from lightning_modules.processes import SharedWork
from lightning_modules.trainer import scoring_trainer
from tests.helpers.tiny_detector import build_detector, small_settings

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *(__name__, "diffguard_cli.stages", "diffusers.models.unets.unet_2d"),
        *("pytorch_ood.detector", "sklearn.neighbors", "train"),
    ]
)


@dataclass
class Death:
    """When a process kills itself.

    Attributes:
        rank: Rank of the process.
        place: `table`: while it writes rows; `merge`: while it writes the merged table; `replace`:
            when the merged table is complete but not yet renamed; `start`: when it requests images.
        writes: The number of the write to the file.
        cut: The part of that write that reaches the file, as the end of a slice; None: all.
    """

    rank: int
    place: str
    writes: int = 1
    cut: int | None = None

    def prepare(self, rank):
        """Arrange the death in the process of its rank."""
        if self.place == "table":
            # Even shares, so that every process has rows to write.
            SharedWork.batches = strided
        if rank != self.rank:
            return
        if self.place == "table":
            diffguard.score_table.writer.io = SimpleNamespace(FileIO=self._dying_file())
        elif self.place == "merge":
            file, plain = self._dying_file(), Path.open

            def dying_open(path, mode="r", *args, **options):
                merged = path.name.startswith(".scores.csv.") and "w" in mode
                return file(path, mode) if merged else plain(path, mode, *args, **options)

            Path.open = dying_open
        elif self.place == "replace":
            plain_replace = Path.replace

            def dying_replace(path, target):
                if target.name == "scores.csv":
                    _die()
                return plain_replace(path, target)

            Path.replace = dying_replace
        else:
            SharedWork.batches = lambda *_: _die()

    def _dying_file(self):
        death = self

        class DyingFile(io.FileIO):
            count = 0

            def write(self, data):
                self.count += 1
                if self.count < death.writes:
                    return super().write(data)
                super().write(data[: death.cut])
                return _die()

        return DyingFile


@dataclass
class Elsewhere:
    """A process whose output folder is on a disk that the others do not see.

    Attributes:
        rank: Rank of the process.
        folder: Its working directory; the output folder must be a relative path.
    """

    rank: int
    folder: Path

    def prepare(self, rank):
        """Change the working directory in that process."""
        agreement._PATIENCE_SECONDS = 1.0
        if rank == self.rank:
            self.folder.mkdir()
            os.chdir(self.folder)


@dataclass
class OtherMachine:
    """A process with another version of a library than the first one.

    Attributes:
        rank: Rank of the process.
    """

    rank: int

    def prepare(self, rank):
        """Change the version that the process reports."""
        if rank == self.rank:
            describe = scoring_folder.describe_machine
            scoring_folder.describe_machine = lambda *arguments: (
                describe(*arguments) | {"numpy": "0.0"}
            )


def strided(work, total, size):
    """Even shares of the positions, as `SharedWork.batches`."""
    rank, world = work._trainer.global_rank, work._trainer.world_size
    mine = list(range(rank, total, world))
    return (mine[begin : begin + size] for begin in range(0, len(mine), size))


def _die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def free_port():
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def data_module(root, **options):
    """The data of `tiny_project`: 18 ID, 7 near and 9 far OOD images."""
    ood = OODSets(near={"blank": "folder:near"}, far={"noise": "folder:far"})
    defaults = {"name": "shapes", "root": str(root), "image_size": 8, "batch_size": 8}
    return OODDataModule(DataConfig(IDSets(test="folder:test"), ood, **{**defaults, **options}))


def score(
    folder, root, checkpoint="one", threads=1, baselines=("msp", "knn"), fused=("knn",), **options
):
    """Score the data into a folder in this process, with `threads` threads."""
    data = data_module(root, **options)
    config = TrainerConfig(accelerator="cpu", threads=threads, progress=False)
    trainer = scoring_trainer(config, "score")
    settings = small_settings(baselines=list(baselines), fused=list(fused))
    detector = build_detector(settings)
    run = ScoringRun(
        detector,
        data,
        data.stream("test"),
        folder,
        {"checkpoint": checkpoint},
        derive=True,
        threads=threads,
    )
    run.run(trainer)


def _process(rank, world, port, death, folder, root, options):
    torch.set_num_threads(1)
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in {**addresses, **ranks}.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = (folder.parent / f"{folder.name}.stderr-{rank}").open("w", buffering=1)
    if death is not None:
        death.prepare(rank)
    run(lambda _: score(folder, root, **options) or 0, [])


def start(folder, root, world=1, death=None, **options):
    """Start an evaluation on several processes."""
    port = free_port()
    processes = [
        PROCESSES.Process(target=_process, args=(rank, world, port, death, folder, root, options))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def evaluate(folder, root, world=1, death=None, limit_s=300, **options):
    """Run an evaluation on several processes; if one fails, the others are killed.

    Returns:
        The exit code of each process.
    """
    processes = start(folder, root, world, death, **options)
    ends = time.monotonic() + limit_s
    while any(process.is_alive() for process in processes) and time.monotonic() < ends:
        if any(process.exitcode not in (None, 0, USER_ERROR) for process in processes):
            break
        time.sleep(0.02)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def errors_of(folder, rank=0):
    """The standard error of a process, from the last run of a folder."""
    return (folder.parent / f"{folder.name}.stderr-{rank}").read_text()
