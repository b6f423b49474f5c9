"""Fractals depend on their seed alone, and show something."""

import numpy as np
import pytest
import torch

from diffguard.augment import fractals as module
from diffguard.augment.fractals import draw_fractals
from diffguard.images import convert_channels


def test_a_fractal_depends_on_seed_and_number_alone():
    fractals = draw_fractals(3, 16, 3, seed=5)
    assert torch.equal(draw_fractals(2, 16, 3, seed=5), fractals[:2])
    assert not torch.equal(draw_fractals(3, 16, 3, seed=6), fractals)


@pytest.mark.parametrize("size", [3, 8, 32])
def test_fractals_are_neither_empty_nor_full_nor_alike(size):
    fractals = draw_fractals(20, size, 3)
    assert fractals.shape == (20, 3, size, size)
    assert 0 <= fractals.min() <= fractals.max() <= 1
    assert fractals.flatten(1).std(1).min() > 0.05
    # Colored: the channels differ.
    assert (fractals[:, 0] - fractals[:, 1]).abs().flatten(1).amax(1).min() > 0.05
    distances = torch.cdist(fractals.flatten(1), fractals.flatten(1)).fill_diagonal_(1e9)
    assert distances.min() > 0.01 * size


@pytest.mark.parametrize("share", [0.0, 0.05, 0.95, 1.0])
def test_an_empty_or_full_fractal_is_drawn_again(monkeypatch, share):
    shares = [share, 0.5]

    def draw(_rng, size):
        inside = np.arange(size**2).reshape(size, size) < shares.pop(0) * size**2
        return inside.astype(float), inside

    monkeypatch.setattr(module, "_attractor", draw)
    monkeypatch.setattr(module, "_julia_set", draw)
    draw_fractals(1, 16, 3)
    assert not shares


def test_a_larger_attractor_covers_the_same_share():
    small, large = (module._attractor(np.random.default_rng(1), size)[1] for size in (512, 1024))
    assert large.mean() > 0.9 * small.mean()


def test_gray_fractals_have_one_channel():
    gray = draw_fractals(2, 16, 1)
    assert torch.equal(gray, convert_channels(draw_fractals(2, 16, 3), 1))


def test_no_fractals_are_an_empty_batch():
    assert draw_fractals(0, 16, 1).shape == (0, 1, 16, 16)
