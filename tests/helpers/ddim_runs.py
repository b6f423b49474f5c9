"""DDIM by single steps and whole paths, as the reference files describe it."""

import torch

from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.levels import Levels
from diffguard.diffusion.path import Path


def inversion_step(x, noise, plan, index, *, clip=False):
    """One step toward noise, each sample at its own; the image itself is not clipped."""
    return _step(x, noise, plan, index, None, up=True, clip=index > 0 if clip else None)


def synthesis_step(x, noise, plan, index, *, clip=False, gradient=None):
    """One step toward the image, each sample at its own."""
    every = torch.ones_like(index, dtype=torch.bool) if clip else None
    return _step(x, noise, plan, index, gradient, up=False, clip=every)


def _step(x, noise, plan, index, gradient, *, up, clip):
    zeros = torch.zeros_like(index)
    step = Levels(plan).step(
        torch.full_like(index, up, dtype=torch.bool), index, zeros, zeros, clip
    )
    return Ddim(plan.pairing).advance(x, x.new_zeros(0, *x.shape), step, noise, gradient)[0]


def invert(noise, x0, plan, steps, *, clip=False):
    """States after each of the inversion steps of a batch."""
    return Path(Ddim(plan.pairing), plan, x0, clip).invert(noise, steps)


def synthesize(noise, x, plan, start, *, clip=False, guide=None):
    """States after each of the synthesis steps of a batch; `guide(x, ε, i)` gives gradients."""

    def gradient(shown, eps, index):
        return guide(shown.x, eps, index)

    path = Path(Ddim(plan.pairing), plan, x, clip)
    return path.synthesize(noise, start, guide and gradient)
