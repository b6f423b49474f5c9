r"""Deterministic DDIM (Song et al., 2021), forward and backward.

With $\hat x_0 = (x - \sqrt{1-\bar\alpha}\,\epsilon)/\sqrt{\bar\alpha}$ one step between any two
noise levels is

$$ x' = \sqrt{\bar\alpha'}\, \hat x_0 + \sqrt{1-\bar\alpha'}\, \epsilon . $$

Toward noise it is the inversion that encodes an image, toward the image it is synthesis. Every
sample has its own levels, so that any mix of trajectories fits one call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.schedule import Pairing, where_rows
from diffguard.diffusion.solver import Shown, Step


def ddim_step(
    x: Tensor,
    noise: Tensor,
    alpha_from: Tensor,
    alpha_to: Tensor,
    *,
    clip: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """Move states from one noise level to another (Song et al., 2021, eq. 12 with σ = 0).

    Args:
        x: `(N, …)` states at `alpha_from`.
        noise: `(N, …)` predicted noise ε.
        alpha_from: `(N,)` levels in (0, 1].
        alpha_to: `(N,)` levels in [0, 1].
        clip: `(N,)` bool, the samples whose clean estimate is clamped to [-1, 1]; their noise is
            recomputed from it.
        gradient: `(N, …)` g, which then turns the noise into ε - √(1-ᾱ) g.

    Returns:
        `(N, …)` states at `alpha_to`.

    Example:
        >>> x, noise = torch.tensor([[0.9]]), torch.tensor([[0.5]])
        >>> ddim_step(x, noise, alpha_from=torch.tensor([0.64]), alpha_to=torch.tensor([1.0]))
        tensor([[0.7500]])
    """
    signal, signal_to, spread, spread_to = _roots(x, alpha_from, alpha_to)
    rows = None if clip is None else clip & (alpha_from < 1)
    clean, noise = _estimate(x, noise, signal, spread, rows, gradient)
    return signal_to * clean + spread_to * noise


def estimate(
    x: Tensor,
    noise: Tensor,
    alpha: Tensor,
    *,
    clip: Tensor | None = None,
    gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The clean estimate of states, and the noise that belongs to it.

    Args:
        x: `(N, …)` states.
        noise: `(N, …)` predicted noise ε.
        alpha: `(N,)` levels of the states in (0, 1].
        clip: `(N,)` bool, the samples whose clean estimate is clamped, see `ddim_step`. Clean
            states are never clamped.
        gradient: `(N, …)` g, see `ddim_step`. Guidance may leave the range again.

    Returns:
        Clean estimate and noise, each `(N, …)`.
    """
    signal, spread = _roots(x, alpha)
    rows = None if clip is None else clip & (alpha < 1)
    return _estimate(x, noise, signal, spread, rows, gradient)


def _estimate(
    x: Tensor,
    noise: Tensor,
    signal: Tensor,
    spread: Tensor,
    rows: Tensor | None,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `estimate`; with the roots of the levels, and the rows `(N,)` that are clamped."""
    clean = (x - spread * noise) / signal
    if rows is not None:
        clamped = clean.clamp(-1.0, 1.0)
        noise = where_rows(rows, (x - signal * clamped) / spread, noise)
        clean = where_rows(rows, clamped, clean)
    if gradient is not None:
        # The clean estimate of the new noise.
        clean = clean + (spread.square() / signal) * gradient
        noise = noise - spread * gradient
    return clean, noise


def renoise(clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """States `(N, …)` at levels `(N,)`, of clean estimates and noise `(N, …)`."""
    signal, spread = _roots(clean, alpha)
    return signal * clean + spread * noise


def _roots(like: Tensor, *alphas: Tensor) -> tuple[Tensor, ...]:
    """√ᾱ of levels `(N,)`, then √(1-ᾱ) of all of them, shaped for arithmetic with `(N, …)`."""
    levels = torch.stack(alphas)
    roots = torch.cat([levels, 1 - levels]).sqrt()
    roots = roots.to(like.device, like.dtype, non_blocking=True)
    return roots.view(len(roots), -1, *[1] * (like.ndim - 1)).unbind()


class Ddim:
    """DDIM as a solver.

    Args:
        pairing: Which timestep the network sees in an inversion step: that of the present level
            (`current`) or that of the level being made (`target`).
    """

    memory = 0
    passes = 1
    warm_up = (0, 0)
    keeps_memory = False

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing

    def shown(self, x: Tensor, _memory: Tensor, step: Step) -> Shown:
        """The states themselves; see `Solver`."""
        return Shown(x, step.t if self.pairing == "current" else step.t_higher, step.alpha)

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Make the step; see `Solver`."""
        levels = step.alpha, step.alpha_next
        return ddim_step(x, noise, *levels, clip=step.clip, gradient=gradient), memory
