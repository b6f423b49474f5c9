"""The OOD metrics of one score as a `Metric`, and those of a table over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffguard.errors import UserError
from diffguard.report.metrics import METRICS
from diffguard.report.set_metrics import ID, SetMetrics
from diffguard.score_table.table import ScoreTable

_OOD = "ood"


class OODMetrics(SetMetrics):
    """The five metrics of one score over all batches and all processes.

    As input to `update`: `scores` `(N,)`, higher = more OOD, and `labels` `(N,)`, −1 for OOD and
    >= 0 for ID. As output of `compute`: the dictionary of `compute_metrics` with float64 scalars.

    Args:
        **kwargs: Arguments of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises:
        UserError: On `update`, if shapes differ; on `compute`, if a score is NaN or infinite or a
            class is missing.

    Example:
        >>> metric = OODMetrics()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.3, 0.9]), torch.tensor([7, 2, -1, -1]))
        >>> metric.compute()["auroc"]
        tensor(0.7500, dtype=torch.float64)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["score"], {ID: ID, _OOD: _OOD}, **kwargs)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: `scores` `(N,)` and `labels` `(N,)` with −1 for OOD."""
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise UserError(
                "scores and labels must both have shape (N,), got "
                f"{tuple(scores.shape)} and {tuple(labels.shape)}"
            )
        super().update(scores[:, None], labels < 0)

    def compute(self) -> dict[str, Tensor]:
        """The metrics over all added batches, on all processes."""
        return {key.split("/")[1]: value for key, value in super().compute().items()}


def synchronized_metrics(
    table: ScoreTable,
    groups: Mapping[str, str],
    score_names: Sequence[str],
    *,
    rank: int,
    world_size: int,
    device: torch.device | str = "cpu",
) -> dict[tuple[str, str], dict[str, float]]:
    """Metrics of a table, to which every process adds its share of the rows.

    Every process calls this with the same table and gets the figures that one process would get.

    Args:
        table: The merged score table.
        groups: Set name -> `"id"` (one set), `"near"` or `"far"`.
        score_names: Scores to compute.
        rank: This process.
        world_size: Number of processes; with 1, nothing is synchronized.
        device: Device on which states are gathered; NCCL requires the GPU of the process.

    Returns:
        (score, OOD set) -> the metrics of `compute_metrics`.

    Raises:
        UserError: In every process, if a set has no scored image.
    """
    rows = [table.rows(name) for name in groups]
    share = np.concatenate(rows)[rank::world_size]
    sets = np.repeat(np.arange(len(rows)), [len(part) for part in rows])[rank::world_size]
    scores = np.stack([table.scores[name][share] for name in score_names], axis=1)
    metric = SetMetrics(score_names, groups, sync_on_compute=world_size > 1).to(device)
    metric.update(torch.from_numpy(scores).to(device), torch.from_numpy(sets).to(device))
    values = metric.compute()
    return {
        (score, dataset): {name: float(values[f"{dataset}/{name}/{score}"]) for name in METRICS}
        for dataset, group in groups.items()
        if group != ID
        for score in score_names
    }
