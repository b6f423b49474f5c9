"""The class labels of a network call."""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser
from diffguard.errors import UserError


def network_labels(denoiser: Denoiser, labels: Tensor, sees_label: Tensor) -> Tensor | None:
    """The classes that a diffusion model is given.

    A model that has classes but no null class always sees the label, also in a pass without it.

    Args:
        denoiser: The diffusion model.
        labels: `(N,)` int64, the classes of the images; -1 for none.
        sees_label: `(N,)` bool, whether the pass is to see the label.

    Returns:
        `(N,)` int64; None for a model without classes.

    Raises:
        UserError: If an image has no label and the model has classes but no null class.
    """
    if denoiser.num_classes is None:
        return None
    if denoiser.null_class is not None:
        return torch.where(sees_label, labels, denoiser.null_class)
    if bool((labels < 0).any()):
        raise UserError(
            "an image without label (-1) needs a diffusion model with a null class, but this one "
            "has classes only: give every image a label"
        )
    return labels
