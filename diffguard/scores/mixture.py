"""Density of a Gaussian mixture that is fitted on ID images, as an OOD score."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffguard.errors import UserError


def fit_mixture(values: Tensor, components: int) -> dict[str, Tensor]:
    """Fit a Gaussian mixture with full covariances on standardized values.

    Args:
        values: `(n, D)` of n images.
        components: Number K of Gaussians.

    Returns:
        Tensors for `negative_log_density`, float64: `center` and `scale` `(D,)`, `weights` `(K,)`,
        `means` `(K, D)` and `precision_roots` `(K, D, D)`.

    Raises:
        UserError: If there are fewer than two images for each Gaussian, or values are not finite.
    """
    # Importing the library takes a second, for which `--help` should not wait.
    from sklearn.mixture import GaussianMixture

    values = values.double().cpu()
    if len(values) < 2 * components:
        raise UserError(
            f"a mixture of {components} Gaussians needs at least {2 * components} ID training "
            f"images, got {len(values)}: give more images, or set fewer components"
        )
    if not bool(values.isfinite().all()):
        raise UserError("the diffusion model gives values that are not finite for ID images")
    center, scale = values.mean(0), values.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    mixture = GaussianMixture(components, max_iter=200, random_state=0)
    mixture.fit(((values - center) / scale).numpy())
    return {
        "center": center,
        "scale": scale,
        "weights": torch.from_numpy(mixture.weights_),
        "means": torch.from_numpy(mixture.means_),
        "precision_roots": torch.from_numpy(mixture.precisions_cholesky_),
    }


def is_mixture(state: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
    """Whether tensors are a result of `fit_mixture`: names, shapes, dtypes and finite values.

    Args:
        state: The tensors.
        shape: Number K of Gaussians and D of values.
    """
    k, d = shape
    shapes = {
        "center": (d,),
        "scale": (d,),
        "weights": (k,),
        "means": (k, d),
        "precision_roots": (k, d, d),
    }
    if {name: tuple(value.shape) for name, value in state.items()} != shapes:
        return False
    return all(v.dtype == torch.float64 and bool(v.isfinite().all()) for v in state.values())


def negative_log_density(values: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Negative log density of standardized values.

    Args:
        values: `(N, D)`.
        state: The result of `fit_mixture`.

    Returns:
        `(N,)` float64, higher = more OOD.
    """
    x = (values.double() - state["center"]) / state["scale"]
    roots = state["precision_roots"]
    differences = x.unsqueeze(0) - state["means"].unsqueeze(1)
    # Whitened, (K, N, D). A matrix product would round by the number of rows.
    white = (differences.unsqueeze(3) * roots.unsqueeze(1)).sum(2)
    log_det = roots.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = state["weights"].log() + log_det - x.shape[1] / 2 * math.log(2 * math.pi)
    return -(constant.unsqueeze(1) - white.square().sum(2) / 2).logsumexp(0)
