"""Environment variables of launchers, and commands on two processes under each launcher.

The processes are forked from a server that has imported everything once.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module

import torch

from diffguard_cli.exit_codes import run
from tests.helpers.commands import ROOT
from tests.helpers.scoring_processes import PROCESSES, free_port

WORLD = 2


def slurm(rank, world, port):
    """Variables of a SLURM task on one machine, as name -> value."""
    return {
        "MASTER_PORT": port,
        "SLURM_JOB_ID": 71,
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": world,
        "SLURM_NTASKS_PER_NODE": world,
        "SLURM_NNODES": 1,
        "SLURM_NODEID": 0,
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank,
        "SLURM_NODELIST": "localhost",
    }


def under_slurm(script, words, folder):
    """Run a script as two SLURM tasks in a folder; returns the output of each."""
    port = free_port()
    variables = [slurm(rank, WORLD, port) for rank in range(WORLD)]
    return _run(script, words, folder, variables)


def under_lightning(script, words, folder):
    """Run a script that Lightning starts a second time; returns the output of the first process."""
    words = [*words, "--trainer.devices", WORLD, "--trainer.strategy", "ddp"]
    return _run(script, words, folder, [{}])[0]


def under_torchrun(script, words, folder):
    """Run a script under the agent of torchrun in a folder; returns the output of each process."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        *(1, 1, WORLD),
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{free_port()}",
        max_restarts=0,
        start_method="forkserver",
    )
    launch = elastic_launch(config, _worker)
    # In the main thread, the agent would change how the tests react to signals.
    agent = threading.Thread(target=launch, args=(script, words, folder))
    agent.start()
    agent.join(300)
    return [_output(folder, rank) for rank in range(WORLD)]


def _run(script, words, folder, variables):
    processes = [
        PROCESSES.Process(target=_process, args=(script, words, folder, rank, environment))
        for rank, environment in enumerate(variables)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    outputs = [_output(folder, rank) for rank in range(len(variables))]
    assert [process.exitcode for process in processes] == [0] * len(processes), outputs
    return outputs


def _output(folder, rank):
    return (folder / f"output-{rank}").read_text()


def _process(script, words, folder, rank, variables):
    os.environ |= {name: str(value) for name, value in variables.items()}
    torch.set_num_threads(1)
    os.chdir(folder)
    # Lightning starts its processes with these words.
    sys.argv = [str(ROOT / f"{script}.py"), *map(str, words)]
    with (folder / f"output-{rank}").open("w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        run(import_module(script).main)


def _worker(script, words, folder):
    try:
        _process(script, words, folder, int(os.environ["RANK"]), {})
    except SystemExit as end:
        if end.code:
            raise
