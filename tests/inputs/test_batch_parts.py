"""Images and labels of the batches that users' loaders give."""

import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.inputs.batch_parts import batch_images, images_and_labels

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", ["text", [1, 2, 3], {"pixels": 0}])
def test_a_batch_without_images_is_refused(batch):
    with pytest.raises(UserError, match="has no images: expected a tensor"):
        batch_images(batch)


def test_lists_of_images_for_training():
    assert batch_images([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match=r"shapes .1, 8, 8., .1, 9, 8.: bring them to one size"):
        batch_images([torch.zeros(1, 8, 8), torch.ones(1, 9, 8)])
    with pytest.raises(UserError, match=r"has no images.* default_collate\(\[item\[:2\]"):
        batch_images([IMAGES, torch.arange(2), torch.arange(2)])
    with pytest.raises(UserError, match="has no images"):
        batch_images([IMAGES, IMAGES.flip(0)])


@pytest.mark.parametrize("labels", [[2, 0], np.array([2, 0]), torch.tensor([2, 0]).byte()])
def test_labels_for_training_have_any_form(labels):
    batch, numbers = images_and_labels((IMAGES, labels))
    assert batch.shape == (2, 1, 8, 8)
    assert torch.equal(numbers, torch.tensor([2, 0]))


@pytest.mark.parametrize("label", [2, torch.tensor(2)])
def test_a_single_image_is_a_batch_of_one(label):
    batch, numbers = images_and_labels((torch.zeros(1, 8, 8), label))
    assert batch.shape == (1, 1, 8, 8)
    assert torch.equal(numbers, torch.tensor([2]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (IMAGES, r"a batch has no labels: expected a pair \(images, labels\)"),
        ((IMAGES, [0, 1, 2]), "a batch has 2 images and 3 labels"),
        ((IMAGES, torch.rand(2, 3)), r"labels must be whole numbers \(N,\), .* got \(2, 3\)"),
    ],
)
def test_training_needs_a_label_for_each_image(batch, message):
    with pytest.raises(UserError, match=message):
        images_and_labels(batch)
