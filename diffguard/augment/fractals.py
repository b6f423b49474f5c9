"""Colored fractals: attractors of iterated function systems, and Julia sets.

A fractal depends only on its seed and size. The seed chooses the kind, the shape and the colors.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffguard.images import convert_channels, resize_to

Array = NDArray[np.float64]

# A fractal fills at least and at most this share of its image.
COVERAGE = (0.08, 0.92)
# Many points iterated at once need few steps in Python.
_POINTS, _STEPS, _BURN_IN = 4096, 48, 12
# Points per pixel of a large image, so that the share that they cover does not fall with the size.
_DENSITY = 0.75
# Smaller fractals are drawn at this size: a few pixels cannot be partly covered.
_SMALLEST = 8
_JULIA_STEPS = 64


def draw_fractals(count: int, size: int, channels: int, seed: int = 0) -> Tensor:
    """Draw fractals.

    Args:
        count: How many.
        size: Side in pixels.
        channels: 3 for color, 1 for gray.
        seed: Seed; each fractal depends on the seed and its number alone.

    Returns:
        `(count, channels, size, size)` float32 in [0, 1].
    """
    images = [draw_fractal(seed, number, size) for number in range(count)]
    fractals = torch.stack(images) if images else torch.zeros(0, 3, size, size)
    return convert_channels(fractals, channels)


def draw_fractal(seed: int, number: int, size: int) -> Tensor:
    """Draw one colored fractal `(3, size, size)` in [0, 1], neither empty nor full."""
    if size < _SMALLEST:
        return resize_to(draw_fractal(seed, number, _SMALLEST), (size, size)).clamp(0, 1)
    attempt = 0
    while True:
        rng = np.random.default_rng([seed, number, attempt])
        draw = _attractor if rng.random() < 0.5 else _julia_set
        values, inside = draw(rng, size)
        if COVERAGE[0] <= inside.mean() <= COVERAGE[1]:
            return torch.from_numpy(_colored(rng, values, inside)).float()
        attempt += 1


def _attractor(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Density of the attractor of random affine maps, in [0, 1], and the pixels that it touches.

    The singular values of the maps are below 1, so that they contract, and are drawn large enough
    that the attractor is more than a few points (Anderson & Farrell, 2022).
    """
    count = int(rng.integers(2, 7))
    turn, back = (_rotations(rng.uniform(0, 2 * np.pi, count)) for _ in range(2))
    stretch = rng.uniform(0.35, 0.85, (count, 2)) * rng.choice([-1.0, 1.0], (count, 2))
    matrices = turn @ (stretch[:, :, None] * back)
    shifts = rng.uniform(-1, 1, (count, 2))
    weights = np.abs(np.linalg.det(matrices)) + 0.05
    points = rng.uniform(-1, 1, (_POINTS, 2))
    visited = []
    steps = max(_STEPS, math.ceil(_DENSITY * size**2 / _POINTS))
    for step in range(_BURN_IN + steps):
        choice = rng.choice(count, _POINTS, p=weights / weights.sum())
        points = np.einsum("nij,nj->ni", matrices[choice], points) + shifts[choice]
        if step >= _BURN_IN:
            visited.append(points)
    density = _density(np.concatenate(visited), size)
    inside = density > 0
    values = np.log1p(density)
    return values / values.max(), inside


def _density(points: Array, size: int) -> Array:
    """How many points fall into each pixel; the image frames them, without distant strays."""
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    center, half = (low + high) / 2, max((high - low).max() / 2, 1e-9) * 1.05
    frame = [(middle - half, middle + half) for middle in center]
    return np.histogram2d(points[:, 0], points[:, 1], bins=size, range=frame)[0]


def _rotations(angles: Array) -> Array:
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)


def _julia_set(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Escape time of z ↦ z² + c, in [0, 1], and the pixels whose escape takes more than a moment.

    The constant c lies just outside the main cardioid of the Mandelbrot set, where Julia sets are
    rich in detail.
    """
    turn = np.exp(1j * rng.uniform(0, 2 * np.pi))
    c = (turn / 2 - turn**2 / 4) * rng.uniform(1.0, 1.08)
    radius = rng.uniform(0.5, 1.4)
    center = complex(*rng.uniform(-0.3, 0.3, 2))
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    z = center + radius * np.exp(1j * rng.uniform(0, 2 * np.pi)) * (axis + 1j * axis[:, None])
    time = np.full(z.shape, float(_JULIA_STEPS))
    active = np.ones(z.shape, dtype=bool)
    for step in range(_JULIA_STEPS):
        z[active] = z[active] ** 2 + c
        escaped = active & (np.abs(z) > 4)
        # The fraction of the last step makes the time a smooth function of the place.
        time[escaped] = step + 1 - np.log2(np.log2(np.abs(z[escaped])))
        active &= ~escaped
    values = np.clip(time / _JULIA_STEPS, 0, 1) ** 0.5
    return values, values > 0.3


def _colored(rng: np.random.Generator, values: Array, inside: NDArray[np.bool_]) -> Array:
    """Map values `(H, W)` to colors `(3, H, W)` by cosines, on a plain background."""
    frequency = rng.uniform(0.5, 2.0, (3, 1, 1))
    phase = rng.uniform(0, 1, (3, 1, 1))
    background = rng.uniform(0, 1, (3, 1, 1)) * rng.choice([0.0, 1.0])
    colors = 0.5 + 0.5 * np.cos(2 * np.pi * (frequency * values + phase))
    return np.where(inside, colors, background)
