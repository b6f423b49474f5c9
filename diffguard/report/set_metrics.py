"""The OOD metrics of several scores on several sets, as one torchmetrics `Metric`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from diffguard.errors import UserError
from diffguard.report.metrics import compute_metrics

ID = "id"


class SetMetrics(Metric):
    """AUROC, AUPR and FPR@95 of every score on every OOD set, over all batches and processes.

    `compute` returns a dictionary of float64 scalars. A key is `<set>/<metric>/<score>`, such as
    `svhn/auroc/fusion`, with the metrics of `compute_metrics`. `<group>/<metric>/<score>` is the
    unweighted mean over the OOD sets of a group.

    Scores are checked in `compute`, after the states are synchronized: a process that raised alone
    would leave the others waiting. A process may have no image.

    Args:
        score_names: The scores, in the order of the columns; higher = more OOD.
        groups: Set name -> group. Exactly one set has the group `id`; other groups are free.
        **kwargs: Arguments of `torchmetrics.Metric`.

    Attributes:
        id_set: Name of the ID set.

    Raises:
        UserError: If `groups` has no OOD set or not exactly one ID set, or if a set has the name of
            a group with other sets; on `compute`, if a set has no image or a score is NaN or
            infinite.

    Example:
        >>> metric = SetMetrics(["msp"], {"digits": "id", "letters": "far"})
        >>> metric.update(torch.tensor([[0.1], [0.4], [0.3], [0.9]]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()["letters/auroc/msp"]
        tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    scores: list[Tensor]
    sets: list[Tensor]

    def __init__(
        self, score_names: Sequence[str], groups: Mapping[str, str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if list(groups.values()).count(ID) != 1 or len(groups) < 2:
            raise UserError(
                "metrics need one set of group 'id' and at least one OOD set of another group, got "
                f"{dict(groups)}"
            )
        for group in sorted(set(groups.values()) - {ID}):
            sets = [name for name in groups if groups[name] == group]
            if group in groups and sets != [group]:
                raise UserError(
                    f"set {group} has the name of the group of {', '.join(sets)}, whose mean needs "
                    "that name: rename the set or the group"
                )
        self.score_names, self.groups = tuple(score_names), dict(groups)
        self.id_set = next(name for name, group in groups.items() if group == ID)
        # Both states are flat and float64: for a process without images torchmetrics sends an empty
        # tensor `(0,)` of the metric's dtype, and processes can only gather tensors of one kind.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("sets", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def update(self, scores: Tensor, sets: Tensor) -> None:
        """Add a batch.

        Args:
            scores: `(N, S)`, a column per score.
            sets: `(N,)`, the number of each image's set in the order of `groups`.

        Raises:
            UserError: If shapes differ.
        """
        if scores.shape != (len(sets), len(self.score_names)):
            raise UserError(
                f"scores must have shape ({len(sets)}, {len(self.score_names)}), got "
                f"{tuple(scores.shape)}"
            )
        self.scores.append(scores.detach().double().flatten())
        self.sets.append(sets.detach().double())

    def compute(self) -> dict[str, Tensor]:
        """The metrics over all added batches, on all processes."""
        # After synchronization a state is one tensor, before it a list.
        none = torch.empty(0, dtype=torch.float64, device=self.device)
        scores = dim_zero_cat(self.scores) if len(self.scores) else none
        sets = dim_zero_cat(self.sets) if len(self.sets) else none
        scores = scores.reshape(len(sets), len(self.score_names))
        names = list(self.groups)
        id_scores = scores[sets == names.index(self.id_set)]
        values: dict[str, list[float]] = {}
        for number, (name, group) in enumerate(self.groups.items()):
            if group == ID:
                continue
            ood_scores = scores[sets == number]
            for column, score in enumerate(self.score_names):
                metrics = compute_metrics(id_scores[:, column], ood_scores[:, column])
                for metric, value in metrics.items():
                    values[f"{name}/{metric}/{score}"] = [value]
                    if group not in names:
                        values.setdefault(f"{group}/{metric}/{score}", []).append(value)
        return {
            key: torch.tensor(sum(parts) / len(parts), dtype=torch.float64, device=self.device)
            for key, parts in values.items()
        }
