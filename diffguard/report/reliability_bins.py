"""The bins of a reliability diagram as a `Metric`."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

_BINS = 15


class ReliabilityBins(Metric):
    """Images, confidences and right predictions in bins of equal width of the confidence.

    `compute` returns the three sums `(B,)` over all processes.
    """

    counts: Tensor
    confidences: Tensor
    right: Tensor

    def __init__(self, bins: int = _BINS) -> None:
        super().__init__()
        for name in ("counts", "confidences", "right"):
            self.add_state(name, torch.zeros(bins), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add images with logits `(N, K)` and labels `(N,)`."""
        confidence, prediction = logits.float().softmax(1).max(1)
        bins = len(self.counts)
        places = (confidence * bins).long().clamp(max=bins - 1)
        self.counts.index_add_(0, places, torch.ones_like(confidence))
        self.confidences.index_add_(0, places, confidence)
        self.right.index_add_(0, places, (prediction == labels).float())

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """The sums."""
        return self.counts, self.confidences, self.right
