"""The stage `augment` on real processes, one of which may be killed while it writes a block."""

import os
import signal
import sys
import time

import torch

import train
from diffguard.augment import cache
from diffguard_cli import augmentation
from diffguard_cli.exit_codes import run
from lightning_modules.processes import SharedWork
from tests.helpers.scoring_processes import PROCESSES, free_port, strided

# Images of a block, so that 36 images are 5 blocks.
BLOCK = 8


def words_of(config, folder, diffusion):
    """The command line that edits the training images with a diffusion model."""
    words = ["--config", config, "--run_dir", folder, "--stages", "[augment]"]
    words += ["--diffusion.ckpt", diffusion, "--augment.method", "diffusemix"]
    return [str(word) for word in (*words, "--augment.steps", 4, "--trainer.threads", 1)]


def edit(words, errors, world=1, writes=None):
    """Run a command line of training on several processes.

    Args:
        words: The command line.
        errors: Folder of the standard error of each process.
        world: Number of processes.
        writes: Blocks that a process writes before it is killed amid the next one; None for all.

    Returns:
        The exit code of each process.
    """
    port = free_port()
    processes = [
        PROCESSES.Process(target=_process, args=(rank, world, port, words, errors, writes))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def blocks_of(errors, rank):
    """Numbers of the blocks that a process has made."""
    return [int(word) for word in (errors / f"blocks-{rank}").read_text().split()]


def _process(rank, world, port, words, errors, writes):
    torch.set_num_threads(1)
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    if world > 1:
        os.environ |= {name: str(value) for name, value in {**addresses, **ranks}.items()}
    sys.stderr = (errors / f"stderr-{rank}").open("w", buffering=1)
    cache.BLOCK = BLOCK
    # Even shares, so that every process has blocks to make.
    SharedWork.batches = strided
    _record_blocks(errors / f"blocks-{rank}")
    if writes is not None:
        _die_after(writes)
    run(train.main, words)


def _record_blocks(path):
    make = augmentation._EditRun._make_block

    def make_block(self, number):
        make(self, number)
        with path.open("a") as file:
            file.write(f"{number}\n")

    augmentation._EditRun._make_block = make_block


def _die_after(writes):
    save, count = cache.save_file, 0

    def dying_save(content, path):
        nonlocal count
        save(content, path)
        count += 1
        if count > writes:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    cache.save_file = dying_save
