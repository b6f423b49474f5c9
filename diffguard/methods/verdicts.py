"""Verdicts: the decision for each image, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffguard.score_table.rows import ScoreRow
from diffguard.scores.calibration import Calibration


@dataclass(frozen=True)
class Verdicts:
    """A detector's verdicts on N images.

    Attributes:
        label: `(N,)` int64, the predicted class.
        probability: `(N,)` float64 softmax probability of that class, in [0, 1].
        score: `(N,)` float64 decision score, higher = more OOD.
        percentile: `(N,)` float64 share of ID validation images with at most this score, 0 … 100.
        is_ood: `(N,)` bool, whether the score is above the threshold.
    """

    label: Tensor
    probability: Tensor
    score: Tensor
    percentile: Tensor
    is_ood: Tensor

    @classmethod
    def from_rows(
        cls, rows: Sequence[ScoreRow], calibration: Calibration, name: str, accept: float
    ) -> Verdicts:
        """Judge scored images.

        Args:
            rows: Their rows of the score table.
            calibration: The detector's calibration.
            name: The score that decides.
            accept: Share of ID images that the threshold accepts, in (0, 1).

        Raises:
            UserError: For an unknown score or a share outside (0, 1).
        """
        scores = [row.scores[name] for row in rows]
        percentiles, is_ood = calibration.verdict(name, scores, accept)
        return cls(
            label=torch.tensor([row.prediction for row in rows], dtype=torch.int64),
            probability=torch.tensor([row.probability for row in rows], dtype=torch.float64),
            score=torch.tensor(scores, dtype=torch.float64),
            percentile=torch.tensor(percentiles, dtype=torch.float64),
            is_ood=torch.tensor(is_ood, dtype=torch.bool),
        )
