"""The number of processes, and the rank of this one, from the variables of a launcher."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment


def process_arguments(devices: int | str, num_nodes: int) -> dict[str, Any]:
    """The Trainer's arguments for the number of processes and the rank of this one.

    If a launcher has started the processes, its numbers count instead of the config's:

    - torchrun, and any launcher that sets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and
      `MASTER_PORT`. If `LOCAL_WORLD_SIZE` is not set, there are `num_nodes` machines.
    - SLURM's `srun`. Requeueing is left to SLURM: Lightning would save a training checkpoint.

    Otherwise Lightning starts one process per device.

    Args:
        devices: Number of devices per machine, or `auto`.
        num_nodes: Number of machines.

    Raises:
        RuntimeError: If SLURM's variables contradict each other.
        ValueError: If a variable is not a number.
    """
    environment = os.environ
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= environment.keys():
        world = int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_WORLD_SIZE", max(1, world // num_nodes)))
        return {
            "devices": local,
            "num_nodes": world // local,
            "plugins": [TorchElasticEnvironment()],
        }
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", 1))
        return {
            "devices": int(environment["SLURM_NTASKS"]) // nodes,
            "num_nodes": nodes,
            "plugins": [SLURMEnvironment(auto_requeue=False)],
        }
    return {"devices": devices, "num_nodes": num_nodes}
