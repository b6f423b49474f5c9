"""Environment variables set by launchers."""

from __future__ import annotations


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
