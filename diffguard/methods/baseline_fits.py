"""What baselines are fitted to on ID validation images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.models import Models
from diffguard.methods.reference import classified
from diffguard.scores.baseline_table import BASELINES


@reproducible()
def fit_baselines(models: Models, loader: Any, batch_size: int) -> dict[str, dict[str, Tensor]]:
    """Fit the baselines in use that need ID validation images.

    Args:
        models: The networks and settings, on their device.
        loader: Batches of the ID validation images.
        batch_size: Rows of each classifier call.

    Returns:
        Baseline -> what it was fitted to; empty if no baseline in use needs these images.

    Raises:
        UserError: If no image can be read.
    """
    kinds = {name: BASELINES[name].validation for name in models.settings.baselines}
    fits = {name: kind for name, kind in kinds.items() if kind is not None}
    if not fits:
        return {}
    logits, labels = [], []
    for output, true in classified(models, loader, batch_size):
        logits.append(output.logits.float().cpu())
        labels.append(true)
    if not labels:
        raise UserError("no ID validation image can be read: check their files")
    whole = torch.cat(logits), torch.cat(labels)
    return {name: fit.make(*whole) for name, fit in fits.items()}
