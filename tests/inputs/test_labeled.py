"""Labeled images from loaders, data sets and other iterables."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from datamodules.image_set import TensorSet
from diffguard.errors import UserError
from diffguard.inputs.labeled import LabeledImages

IMAGES = torch.randint(0, 256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
LABELS = torch.arange(11) % 3


class Pairs(Dataset):
    """Single images, without an end of iteration."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, place):
        return self.read(place)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(IMAGES, LABELS.tolist(), strict=True)


def array(place):
    return IMAGES[place].permute(1, 2, 0).numpy()


FORMS = {
    "loader of tensors": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
    "loader of dicts": lambda: DataLoader(
        Pairs(lambda i: {"image": IMAGES[i] / 255, "label": LABELS[i]}), batch_size=3
    ),
    "data set of PIL images": lambda: Pairs(lambda i: (Image.fromarray(array(i)), int(LABELS[i]))),
    "data set of dicts": lambda: Pairs(lambda i: {"image": array(i), "label": np.int64(LABELS[i])}),
    "iterable data set": Stream,
    "list of batches": lambda: [(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:].int())],
    "iterator": lambda: iter([(list(IMAGES), LABELS.tolist())]),
    "our data": lambda: TensorSet("x", IMAGES, LABELS),
}


def read(data):
    batches = list(data)
    images = torch.cat([batch["image"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    return images, labels, [len(batch["error"]) for batch in batches]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches_each_time(form):
    data = LabeledImages(FORMS[form](), 8, 3, 4)
    for _ in range(2):
        images, labels, sizes = read(data)
        assert torch.equal(images, IMAGES / 255)
        assert labels.tolist() == LABELS.tolist()
        assert labels.dtype == torch.int64
        assert sizes == [4, 4, 3]


@pytest.mark.parametrize("form", FORMS)
def test_a_limit_chooses_the_images_that_a_data_set_would_choose(form):
    expected = TensorSet("x", IMAGES, LABELS).subset(5)
    images, labels, _ = read(LabeledImages(FORMS[form](), 8, 3, 4, limit=5))
    assert labels.tolist() == expected.labels.tolist()
    assert torch.equal(images, torch.stack([item["image"] for item in expected]))


def test_images_that_could_not_be_read_are_left_out():
    batch = {"image": IMAGES[:3], "label": LABELS[:3], "error": ["", "torn", ""]}
    assert read(LabeledImages([batch], 8, 3, 4))[1].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (
            IMAGES,
            r"it is a Tensor, expected a pair \(images, labels\), .* write \[\(images, labels\)\]",
        ),
        ((IMAGES, LABELS, LABELS), "it has 3 values"),
        ({"pixel_values": IMAGES, "label": LABELS}, "a dict with pixel_values, label: expected"),
        ((IMAGES, LABELS[:3]), "it has 11 images and 3 labels"),
        ((IMAGES, torch.eye(11)), r"labels must be whole numbers \(N,\).* got \(11, 11\) float32"),
        ((IMAGES, ["a"] * 11), "labels must be whole numbers"),
        ((IMAGES, LABELS - 1), "label -1 is not a class"),
        ((IMAGES.int(), LABELS), "scale of torch.int32 images is unknown"),
        (((IMAGES / 255 - 0.5) / 0.2, LABELS), "or undo a normalization"),
    ],
)
def test_other_elements_are_refused_in_one_line(element, message):
    with pytest.raises(UserError, match=message) as caught:
        list(LabeledImages([(IMAGES, LABELS), element], 8, 3, 4))
    assert str(caught.value).startswith("element 1 of the loader: ")
    assert "\n" not in str(caught.value)
