"""The OOD metrics as a torchmetrics `Metric`, and the metrics of a table over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from diffguard.errors import UserError
from diffguard.report.metrics import compute_metrics
from diffguard.score_table.table import ScoreTable


class OODMetrics(Metric):
    """The five metrics of one score over all batches and all processes.

    As input to `update`: `scores` `(N,)`, higher = more OOD, and `labels` `(N,)`, −1 for OOD and
    >= 0 for ID. As output of `compute`: the dictionary of `compute_metrics` with float64 scalars.

    Scores are checked in `compute`, after the states are synchronized: a process that raised alone
    would leave the others waiting for it.

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

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Both states are float64: for a process without data torchmetrics sends an empty tensor of
        # the metric's dtype, and processes that disagree on the dtype cannot gather.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: `scores` `(N,)` and `labels` `(N,)` with −1 for OOD."""
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise UserError(
                "scores and labels must both have shape (N,), got "
                f"{tuple(scores.shape)} and {tuple(labels.shape)}"
            )
        self.scores.append(scores.detach().double())
        self.labels.append(labels.detach().double())

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics over all added batches, on all processes."""
        none = torch.empty(0, dtype=torch.float64)
        # After synchronization a state is one tensor, before it a list.
        scores = dim_zero_cat(self.scores) if len(self.scores) else none
        labels = dim_zero_cat(self.labels) if len(self.labels) else none
        metrics = compute_metrics(scores[labels >= 0], scores[labels < 0])
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in metrics.items()
        }


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
    id_set = next(name for name, group in groups.items() if group == "id")
    id_rows = table.rows(id_set)
    metrics = {}
    for dataset in (name for name, group in groups.items() if group != "id"):
        rows = np.concatenate([id_rows, table.rows(dataset)])
        labels = torch.zeros(len(rows))
        labels[len(id_rows) :] = -1
        share = rows[rank::world_size]
        for name in score_names:
            metric = OODMetrics(sync_on_compute=world_size > 1).to(device)
            scores = torch.from_numpy(table.scores[name][share])
            metric.update(scores.to(device), labels[rank::world_size].to(device))
            metrics[name, dataset] = {key: float(value) for key, value in metric.compute().items()}
    return metrics
