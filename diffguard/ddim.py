r"""Deterministic DDIM (Song et al., 2021), forwards and backwards.

With $\hat x_0 = (x - \sqrt{1-\bar\alpha}\,\epsilon)/\sqrt{\bar\alpha}$ one step between any two
noise levels is

$$ x' = \sqrt{\bar\alpha'}\, \hat x_0 + \sqrt{1-\bar\alpha'}\, \epsilon . $$

Towards noise it is the inversion that encodes an image, towards the image it is synthesis. Every
sample has its own levels, so that any mix of trajectories fits one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffguard.schedule import SamplingPlan, expand

NoiseFunction = Callable[[Tensor, Tensor], Tensor]
GuideFunction = Callable[[Tensor, Tensor, int], Tensor]


def predict_clean(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """The clean estimate x̂_0.

    Args:
        x: `(N, …)` states.
        noise: `(N, …)` predicted noise ε.
        alpha: `(N,)` float64 levels ᾱ of the states, in (0, 1].

    Returns:
        `(N, …)`.
    """
    return (x - expand((1 - alpha).sqrt(), x) * noise) / expand(alpha.sqrt(), x)


def clip_noise(x: Tensor, noise: Tensor, alpha: Tensor, clip: Tensor) -> Tensor:
    """The noise that belongs to the clean estimate clamped to [-1, 1].

    Args:
        x: `(N, …)` states.
        noise: `(N, …)` predicted noise ε.
        alpha: `(N,)` levels of the states, below 1 where `clip` is set.
        clip: `(N,)` bool, the samples to clip; the others keep their noise.

    Returns:
        `(N, …)` noise.
    """
    if not bool(clip.any()):
        return noise
    clean = predict_clean(x, noise, alpha).clamp(-1.0, 1.0)
    clipped = (x - expand(alpha.sqrt(), x) * clean) / expand((1 - alpha).sqrt(), x)
    return torch.where(expand(clip, x).bool(), clipped, noise)


def ddim_step(x: Tensor, noise: Tensor, alpha_from: Tensor, alpha_to: Tensor) -> Tensor:
    """Move states from one noise level to another (Song et al., 2021, eq. 12 with σ = 0).

    Args:
        x: `(N, …)` states at `alpha_from`.
        noise: `(N, …)` noise ε, guided where guidance is wanted.
        alpha_from: `(N,)` levels in (0, 1].
        alpha_to: `(N,)` levels in [0, 1].

    Returns:
        `(N, …)` states at `alpha_to`.
    """
    clean = predict_clean(x, noise, alpha_from)
    return expand(alpha_to.sqrt(), x) * clean + expand((1 - alpha_to).sqrt(), x) * noise


def guide_noise(noise: Tensor, gradient: Tensor, alpha: Tensor) -> Tensor:
    """Steer the noise by a log-likelihood gradient: ε - √(1-ᾱ) g, `(N, …)`."""
    return noise - expand((1 - alpha).sqrt(), noise) * gradient


def inversion_step(
    x: Tensor, noise: Tensor, plan: SamplingPlan, index: Tensor, *, clip: bool = False
) -> Tensor:
    """One step towards noise, each sample at its own.

    Args:
        x: `(N, …)` states before the steps.
        noise: `(N, …)` noise ε predicted at `x`.
        plan: Timesteps and levels.
        index: `(N,)` int64, which inversion step each sample makes.
        clip: Clamp the clean estimate to [-1, 1]; not at step 0, whose state is the image.

    Returns:
        `(N, …)` states after the steps.
    """
    _, alpha_from, alpha_to = plan.inversion(index)
    noise = clip_noise(x, noise, alpha_from, (index > 0) & clip)
    return ddim_step(x, noise, alpha_from, alpha_to)


def synthesis_step(
    x: Tensor,
    noise: Tensor,
    plan: SamplingPlan,
    index: Tensor,
    *,
    clip: bool = False,
    gradient: Tensor | None = None,
) -> Tensor:
    """One step towards the image, each sample at its own.

    Args:
        x: `(N, …)` states before the steps.
        noise: `(N, …)` noise ε predicted at `x`.
        plan: Timesteps and levels.
        index: `(N,)` int64, which synthesis step each sample makes.
        clip: Clamp the clean estimate to [-1, 1]; guidance may leave the range again.
        gradient: `(N, …)` g, the scaled gradient of a classifier; the noise becomes
            ε - √(1-ᾱ) g (Dhariwal & Nichol, 2021, alg. 2).

    Returns:
        `(N, …)` states after the steps.
    """
    _, alpha_from, alpha_to = plan.synthesis(index)
    noise = clip_noise(x, noise, alpha_from, torch.full_like(index, clip, dtype=torch.bool))
    if gradient is not None:
        noise = guide_noise(noise, gradient, alpha_from)
    return ddim_step(x, noise, alpha_from, alpha_to)


def invert(
    predict_noise: NoiseFunction, x0: Tensor, plan: SamplingPlan, steps: int, *, clip: bool = False
) -> Iterator[Tensor]:
    """Invert a batch by the same number of steps.

    Args:
        predict_noise: `(x (N, …), t (N,) int64) -> ε (N, …)`.
        x0: `(N, …)` clean states in [-1, 1] (or latents).
        plan: Timesteps and levels.
        steps: How many inversion steps to make, at most the plan's length.
        clip: Clamp the clean estimate to [-1, 1], except at the first step.

    Yields:
        `(N, …)` the state after each step.
    """
    x = x0
    for i in range(steps):
        index = torch.full((len(x),), i)
        noise = predict_noise(x, plan.timesteps[index].to(x.device))
        x = inversion_step(x, noise, plan, index, clip=clip)
        yield x


def synthesize(
    predict_noise: NoiseFunction,
    x: Tensor,
    plan: SamplingPlan,
    start_index: int,
    *,
    clip: bool = False,
    guide: GuideFunction | None = None,
) -> Iterator[Tensor]:
    """Synthesise a batch from the same step down to the image.

    Args:
        predict_noise: `(x (N, …), t (N,) int64) -> ε (N, …)`.
        x: `(N, …)` states at the level of step `start_index`.
        plan: Timesteps and levels.
        start_index: First synthesis step; `start_index + 1` steps are made.
        clip: Clamp the clean estimate to [-1, 1] before guidance.
        guide: `(x, ε, i) -> g (N, …)`, the scaled gradient of a classifier at step i, given the
            unclipped ε; the noise becomes ε - √(1-ᾱ) g (Dhariwal & Nichol, 2021, alg. 2).

    Yields:
        `(N, …)` the state after each step.
    """
    for i in range(start_index, -1, -1):
        index = torch.full((len(x),), i)
        noise = predict_noise(x, plan.timesteps[index].to(x.device))
        gradient = None if guide is None else guide(x, noise, i)
        x = synthesis_step(x, noise, plan, index, clip=clip, gradient=gradient)
        yield x
