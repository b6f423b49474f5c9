"""Mixtures in training depend on seed, epoch and image alone."""

import pytest
import torch

from diffguard.augment.mixing import DiffuseMix
from diffguard.augment.mixtures import Mixtures

COUNT = 300
IMAGES, POSITIONS = torch.ones(COUNT, 1, 4, 4), torch.arange(COUNT)


def mixtures(share=0.5, weight=0.0, seed=0):
    edits = torch.zeros(COUNT, 1, 4, 4, dtype=torch.uint8)
    fractals = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 1, 4, 4)
    return Mixtures(edits, fractals, DiffuseMix(weight), share, seed)


def is_mixed(images):
    return (images != 1).flatten(1).any(1)


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (0.5, 120, 180), (1, 300, 300)])
def test_the_share_of_mixtures(share, low, high):
    mixed = mixtures(share)(IMAGES, POSITIONS, 0)
    assert low <= int(is_mixed(mixed).sum()) <= high
    # Half of each mixture is the original.
    assert (mixed.flatten(1).mean(1)[is_mixed(mixed)] == 0.5).all()


def test_an_image_is_mixed_alike_in_every_batch():
    whole = mixtures()(IMAGES, POSITIONS, 3)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    for rows in order.split(7):
        assert torch.equal(mixtures()(IMAGES[rows], rows, 3), whole[rows])


def test_epochs_and_seeds_differ():
    first = mixtures()(IMAGES, POSITIONS, 0)
    assert not torch.equal(first, mixtures()(IMAGES, POSITIONS, 1))
    assert not torch.equal(first, mixtures(seed=1)(IMAGES, POSITIONS, 0))


def test_all_fractals_are_used():
    mixed = mixtures(share=1, weight=1.0)(IMAGES, POSITIONS, 0)
    assert mixed[:, 0, 0, 0].unique().tolist() == [0, 0.25, 0.5, 0.75, 1]
