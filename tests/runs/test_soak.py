"""Kills at random moments, full disks and a lost machine: `pytest -m soak`, takes minutes.

Every disturbed run is started again, and must end with the table of an undisturbed run.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.scoring_processes import errors_of, evaluate, free_port, start
from tests.helpers.tiny_project import write_images

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
KILLS, FILLS, IMAGES = 20, 5, 600


@pytest.fixture(scope="module")
def root(tmp_path_factory, data_root):
    """The tiny data with more images, so that scoring takes seconds."""
    root = shutil.copytree(data_root, tmp_path_factory.mktemp("soak") / "data")
    write_images(root / "more", IMAGES, "noise", 5)
    for number, path in enumerate(sorted((root / "more").iterdir())):
        path.rename(root / "far" / f"more-{number:04}.png")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    """The table of one undisturbed process, and the duration of a run of two in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    assert evaluate(folder / "one", root) == [0], errors_of(folder / "one")
    began = time.monotonic()
    assert evaluate(folder / "two", root, world=2) == [0, 0], errors_of(folder / "two")
    seconds = time.monotonic() - began
    table = (folder / "one" / "scores.csv").read_bytes()
    assert len(table.splitlines()) == 1 + 34 + IMAGES
    assert (folder / "two" / "scores.csv").read_bytes() == table
    return table, seconds


def test_processes_killed_at_random_moments_give_the_same_table(tmp_path, root, whole, record_property):
    table, seconds = whole
    rng = random.Random(0)
    kills = runs = 0
    while kills < KILLS:
        folder = tmp_path / f"run-{runs}"
        while True:  # the same command, until it succeeds
            world = rng.choice([1, 2, 2, 3])
            processes = start(folder, root, world)
            victim, moment = rng.choice(processes), rng.uniform(0, seconds)
            victim.join(moment)
            died = victim.is_alive() and kills < KILLS
            if died:
                victim.kill()
                kills += 1
                for process in processes:  # as launchers do
                    process.kill()
            for process in processes:
                process.join(300)
            codes = [process.exitcode for process in processes]
            if not died:
                break
        assert codes == [0] * world, errors_of(folder)
        assert (folder / "scores.csv").read_bytes() == table
        runs += 1
    record_property("kills", kills)
    record_property("equal tables", runs)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_at_random_moments_loses_no_row(small_disk, root, whole):
    table, _ = whole
    rng = random.Random(1)
    folder = small_disk  # the output of the processes is beside it
    for _ in range(FILLS):
        # Space for some of the rows, or for all of them and a part of the merged table.
        room = int(rng.uniform(0.05, 1.9) * len(table)) // 4096 * 4096
        filler = small_disk / "filler"
        free = os.statvfs(small_disk).f_bavail * 4096
        filler.write_bytes(bytes(free - room))
        codes = evaluate(folder, root, world=2)
        assert codes == [2, 0], (room, errors_of(folder))
        assert "No space left on device; make room" in errors_of(folder)
        assert errors_of(folder).count("\n") == 1
        filler.unlink()
        assert evaluate(folder, root, world=2) == [0, 0], errors_of(folder)
        assert (folder / "scores.csv").read_bytes() == table
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def torchrun(node, port, words):
    """One machine of two, each with one process."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(node)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
        *map(str, words),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lose(machine):
    """Kill a launcher and its processes at once."""
    workers = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()
    assert workers
    for pid in [machine.pid, *map(int, workers)]:
        os.kill(pid, signal.SIGKILL)
    machine.communicate()


def test_a_lost_machine_loses_no_rows(tmp_path, root, run_folder):
    ckpt = shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")
    words = ["evaluate.py", "--ckpt", ckpt, "--data.root", root, "--trainer.threads", 1]
    words += ["--panels", 0]
    alone = subprocess.run(
        [sys.executable, *map(str, [*words, "--output", tmp_path / "one"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    words += ["--output", tmp_path / "two"]
    port = free_port()
    machines = [torchrun(node, port, words) for node in (0, 1)]
    ends = time.monotonic() + 300
    while not list((tmp_path / "two").glob("scores/rank-1*.csv")) and time.monotonic() < ends:
        time.sleep(0.01)
    lose(machines[1])
    # The other machine detects it and exits.
    machines[0].communicate(timeout=300)
    assert machines[0].returncode != 0
    assert not (tmp_path / "two" / "scores.csv").exists()
    port = free_port()
    machines = [torchrun(node, port, words) for node in (0, 1)]
    outputs = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    single = (tmp_path / "one" / "scores.csv").read_bytes()
    assert (tmp_path / "two" / "scores.csv").read_bytes() == single
