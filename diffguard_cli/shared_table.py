"""The merged score table and its metrics in all processes of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl

from diffguard.processes.agreement import wait_until
from diffguard.report.torch_metric import synchronized_metrics
from diffguard.score_table.table import ScoreTable
from diffguard.storage.files import file_hash

Metrics = dict[tuple[str, str], dict[str, float]]


def read_together(
    path: Path, groups: Mapping[str, str], trainer: pl.Trainer
) -> tuple[ScoreTable, Metrics]:
    """Read a merged table in every process and compute its metrics jointly.

    Args:
        path: `scores.csv`, on a disk that all processes share.
        groups: Set name -> `id`, `near` or `far`.
        trainer: The trainer that connects the processes.

    Returns:
        The table, and (score, OOD set) -> metrics over all processes.

    Raises:
        UserError: If a process does not find the first process's table.
    """
    digest = trainer.strategy.broadcast(file_hash(path) if trainer.is_global_zero else "")
    wait_until(
        lambda: path.is_file() and file_hash(path) == digest, path.parent, trainer.global_rank
    )
    table = ScoreTable.read(path)
    metrics = synchronized_metrics(
        table,
        groups,
        table.complete_scores,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        device=trainer.strategy.root_device if trainer.world_size > 1 else "cpu",
    )
    return table, metrics
