"""Who starts the processes: Lightning itself, torchrun, SLURM, or another launcher."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from diffguard_cli.config import TrainerConfig


def process_arguments(config: TrainerConfig) -> dict[str, Any]:
    """The arguments of a Trainer that say how many processes there are, and which one this is.

    A launcher has already started them, so its numbers count and not the config's:

    - torchrun, and any launcher that sets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and
      `MASTER_PORT`. Where `LOCAL_WORLD_SIZE` is not set, there are `config.num_nodes` machines.
    - SLURM's `srun`. Requeueing is left to SLURM: Lightning's own would save a training checkpoint.

    Otherwise Lightning starts one process per device.

    Raises:
        RuntimeError: If SLURM's variables contradict each other.
        ValueError: If a variable is no number.
    """
    environment = os.environ
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= environment.keys():
        world = int(environment["WORLD_SIZE"])
        devices = int(environment.get("LOCAL_WORLD_SIZE", max(1, world // config.num_nodes)))
        return {
            "devices": devices,
            "num_nodes": world // devices,
            "plugins": [TorchElasticEnvironment()],
        }
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", 1))
        return {
            "devices": int(environment["SLURM_NTASKS"]) // nodes,
            "num_nodes": nodes,
            "plugins": [SLURMEnvironment(auto_requeue=False)],
        }
    return {"devices": config.devices, "num_nodes": config.num_nodes}
