"""Mixtures of an image, its edit and a fractal, pixel by pixel."""

import pytest
import torch

from diffguard.augment.mixing import HALVES, DiffuseMix, half_masks
from diffguard.errors import UserError


def numbered(halves, seam=0.0, weight=0.0, size=4):
    """Mixtures of an original of ones, an edit of zeros and a fractal of 0.5."""
    shape = (len(halves), 1, size, size)
    positions = torch.tensor([HALVES.index(half) for half in halves])
    parts = torch.ones(shape), torch.zeros(shape), torch.full(shape, 0.5)
    return DiffuseMix(weight, seam)(*parts, halves=positions)[:, 0]


def test_the_named_half_shows_the_original():
    left, right, top, bottom = numbered(HALVES)
    assert left.tolist() == [[1, 1, 0, 0]] * 4
    assert right.tolist() == [[0, 0, 1, 1]] * 4
    assert top.tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert bottom.tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


def test_a_pixel_that_the_middle_divides_is_half_of_each():
    assert half_masks(3, 3, seam=0.0)[0, 0].tolist() == [1, 0.5, 0]


def test_a_seam_falls_linearly_over_its_width():
    (left,) = numbered(["left"], seam=4.0, size=8)
    assert left[0].tolist() == [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]
    masks = half_masks(6, 8, seam=3.0)
    assert torch.equal(masks[0] + masks[1], torch.ones(6, 8))
    assert torch.equal(masks[2] + masks[3], torch.ones(6, 8))


@pytest.mark.parametrize(
    ("weight", "expected"), [(0.0, [1, 0]), (0.2, [0.9, 0.1]), (1.0, [0.5, 0.5])]
)
def test_the_fractal_has_its_weight(weight, expected):
    (left,) = numbered(["left"], weight=weight)
    torch.testing.assert_close(left[0, [0, 3]], torch.tensor(expected).float())


def test_an_image_alone_and_in_a_batch_have_the_same_mixture():
    parts = torch.rand(3, 5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    halves = torch.tensor([0, 1, 2, 3, 0])
    transform = DiffuseMix(0.2, seam=2.0)
    batch = transform(*parts, halves=halves)
    assert 0 <= batch.min() <= batch.max() <= 1
    for row in range(5):
        alone = transform(*parts[:, row], halves=halves[row : row + 1])
        assert torch.equal(alone, batch[row])


def test_the_half_depends_on_the_seed_and_the_image_alone():
    originals = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    blank = torch.zeros(200, 1, 4, 4)

    def shown(images, seed=0):
        """Which pixels show the original."""
        return DiffuseMix(0.0, seed=seed)(images, blank[: len(images)], blank[: len(images)]) > 0

    torch.manual_seed(1)
    batch = shown(originals)
    counts = batch.flatten(1).int().unique(dim=0, return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 30
    torch.manual_seed(2)
    assert torch.equal(shown(originals.flip(0)).flip(0), batch)
    assert torch.equal(shown(originals[7:8])[0], batch[7])
    assert not torch.equal(shown(originals, seed=1), batch)


@pytest.mark.parametrize("values", [{"fractal_weight": 1.5}, {"seam": -1.0}])
def test_values_out_of_range_are_named(values):
    (name,) = values
    with pytest.raises(UserError, match=f"{name} must be"):
        DiffuseMix(**values)


def test_images_of_different_shapes_are_refused():
    with pytest.raises(UserError, match=r"one shape.*\(3, 4, 4\), \(3, 5, 5\)"):
        DiffuseMix()(torch.rand(3, 4, 4), torch.rand(3, 5, 5), torch.rand(3, 4, 4))


def test_images_of_integers_are_refused_and_an_empty_batch_stays_empty():
    integers, empty = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, 3, 4, 4)
    with pytest.raises(UserError, match="floating-point numbers"):
        DiffuseMix()(integers, integers, integers)
    assert DiffuseMix()(empty, empty, empty).shape == empty.shape
