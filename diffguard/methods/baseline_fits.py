"""What baselines are fitted to on ID validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.models import Models
from diffguard.methods.reference import classified
from diffguard.scores.baseline_table import BASELINES
from diffguard.scores.cross_fitting import cross_fitted


@dataclass(frozen=True)
class BaselineFits:
    """The fits of baselines to n ID validation images.

    Attributes:
        fits: Baseline -> what it was fitted to.
        scores: Baseline -> `(n,)` float64 of these images, cross-fitted.
    """

    fits: Mapping[str, Mapping[str, Tensor]]
    scores: dict[str, Tensor]


@reproducible()
def fit_baselines(models: Models, loader: Any, batch_size: int) -> BaselineFits:
    """Fit the baselines in use that need ID validation images.

    Args:
        models: The networks and settings, on their device.
        loader: Batches of the ID validation images.
        batch_size: Rows of each classifier call.

    Returns:
        The fits and the scores of these images; both empty if no baseline in use needs them.

    Raises:
        UserError: If fewer than two images can be read.
    """
    kinds = {name: BASELINES[name].validation for name in models.settings.baselines}
    fits = {name: kind for name, kind in kinds.items() if kind is not None}
    if not fits:
        return BaselineFits({}, {})
    logits, labels = [], []
    for output, true in classified(models, loader, batch_size):
        logits.append(output.logits.float().cpu())
        labels.append(true)
    if sum(map(len, labels)) < 2:
        raise UserError(
            f"baseline {next(iter(fits))} is fitted to at least 2 ID validation images, and "
            f"{sum(map(len, labels))} can be read: check their files, or give more"
        )
    whole = torch.cat(logits), torch.cat(labels)
    return BaselineFits(
        {name: fit.make(*whole) for name, fit in fits.items()},
        {name: cross_fitted(*whole, fit.make, BASELINES[name].make) for name, fit in fits.items()},
    )
