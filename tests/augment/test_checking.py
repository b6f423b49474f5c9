"""Edits that failed are rejected, counted and made again."""

import torch

from diffguard.augment.checking import Fault, find_faults, make_edits


def pictures(*levels):
    """Images of a bright square on black, whose brightness is the level."""
    images = torch.zeros(len(levels), 1, 8, 8)
    images[:, :, 2:6, 2:6] = torch.tensor(levels)[:, None, None, None]
    return images


def brightness_class(images):
    """Class 1 for bright squares, 0 for dark ones."""
    return (images.amax((1, 2, 3)) > 0.5).long()


class FakeEditor:
    """Returns prepared edits of each image, by attempt, and remembers what it was asked."""

    def __init__(self, *attempts):
        self.attempts, self.requests = attempts, []

    def edit(self, images, labels, attempt):
        self.requests.append((len(images), labels, attempt))
        return self.attempts[attempt](images)


def test_faults_are_found():
    originals = pictures(0.9, 0.9, 0.9, 0.9, 0.9)
    edits = torch.cat([originals[:1], torch.full((1, 1, 8, 8), 0.9), originals[2:3] * 0.2,
                       originals[3:4] * 0.5, originals[4:]])  # fmt: skip
    edits[4, 0, 0, 0] = torch.nan
    labels = torch.ones(5, dtype=torch.int64)
    faults = find_faults(originals, edits, labels, brightness_class)
    expected = [Fault.NONE, Fault.BLANK, Fault.COLLAPSED, Fault.LABEL, Fault.BLANK]
    assert faults.tolist() == expected
    # Without a classifier, a change of the class is not noticed.
    assert find_faults(originals, edits, labels, None)[3] == Fault.NONE


def test_a_blank_original_may_have_a_blank_edit():
    blank = torch.zeros(1, 1, 8, 8)
    assert find_faults(blank, blank, torch.zeros(1), None).tolist() == [Fault.NONE]


def test_an_edit_may_keep_a_mistaken_class_of_its_original():
    dark = pictures(0.4)
    labels = torch.ones(1, dtype=torch.int64)
    assert find_faults(dark, dark, labels, brightness_class).tolist() == [Fault.NONE]
    bright = pictures(0.9)
    assert find_faults(dark, bright, labels, brightness_class).tolist() == [Fault.NONE]
    assert find_faults(bright, dark, labels, brightness_class).tolist() == [Fault.LABEL]


def test_only_rejected_edits_are_made_again():
    images = pictures(0.9, 0.8, 0.7)

    def first(originals):
        edits = originals * 0.9
        edits[1] = 0.5
        return edits

    editor = FakeEditor(first, lambda originals: originals * 0.8)
    edits = make_edits(editor, images, torch.tensor([1, 2, 3]), None, attempts=3)
    assert editor.requests == [(3, [1, 2, 3], 0), (1, [2], 1)]
    expected = images * torch.tensor([0.9, 0.8, 0.9])[:, None, None, None]
    torch.testing.assert_close(edits.images, expected)
    assert edits.is_edit.all()
    assert edits.rejections.tolist() == [0, 1, 0, 0]


def test_an_image_without_an_accepted_edit_stays_as_it_is():
    images = pictures(0.9, 0.8)

    def first(originals):
        return torch.stack([originals[0] * 0.9, torch.zeros(1, 8, 8)])

    editor = FakeEditor(first, torch.zeros_like)
    edits = make_edits(editor, images, torch.zeros(2, dtype=torch.int64), None, attempts=2)
    assert edits.is_edit.tolist() == [True, False]
    assert torch.equal(edits.images[1], images[1])
    assert edits.rejections.tolist() == [0, 2, 0, 0]
