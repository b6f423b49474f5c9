"""Sets in memory: items, subsets and fingerprints."""

import numpy as np
import pytest
import torch

from datamodules.file_set import folder_set
from datamodules.image_set import TensorSet, no_labels
from diffguard.randomness import shuffled
from tests.helpers.tiny_project import write_images


def _images(count=20):
    return (torch.arange(count * 16) % 251).to(torch.uint8).reshape(count, 1, 4, 4)


def test_items_have_image_label_path_and_index():
    images = _images()
    item = TensorSet("a", images, torch.arange(20))[3]
    image = item.pop("image")
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, images[3] / 255.0)
    assert item == {"label": 3, "dataset": "a", "index": 3, "path": ""}


def test_iteration_ends_after_the_last_image():
    assert len(list(TensorSet("a", _images(), no_labels(20)))) == 20


def test_subset_keeps_indices_labels_and_pixels():
    full = TensorSet("a", _images(), torch.arange(20))
    part = full.subset(5)
    assert len(part) == len(part.labels) == 5
    assert list(part.indices) == sorted(set(part.indices))
    assert part.labels.tolist() == list(part.indices) != list(range(5))
    for position, index in enumerate(part.indices):
        assert part[position]["index"] == index
        assert torch.equal(part[position]["image"], full[index]["image"])
    assert list(full.subset(5).indices) == list(part.indices)
    assert len(full) == 20
    assert full.subset(None) is full.subset(20) is full


def test_shuffled_order_is_fixed():
    assert shuffled(range(8), seed=0) == [3, 7, 5, 2, 4, 1, 6, 0]
    assert shuffled(range(8), seed=1) != shuffled(range(8), seed=0)


@pytest.mark.parametrize("change", ["name", "label", "subset", "count"])
def test_fingerprint_identifies_the_images(change):
    images, labels = _images(), torch.arange(20)
    before = TensorSet("a", images, labels)
    assert before.fingerprint() == TensorSet("a", images.clone(), labels.clone()).fingerprint()
    after = {
        "name": TensorSet("b", images, labels),
        "label": TensorSet("a", images, no_labels(20)),
        "subset": before.subset(5),
        "count": TensorSet("a", images[:19], labels[:19]),
    }[change]
    assert after.fingerprint() != before.fingerprint()


def test_contents_identify_changed_images():
    images, labels = _images(), torch.arange(20)
    changed = images.clone()
    changed[7, 0, 2, 2] += 1
    before, after = (TensorSet("a", pixels, labels) for pixels in (images, changed))
    assert np.flatnonzero(before.contents() != after.contents()).tolist() == [7]
    assert before.fingerprint() == after.fingerprint()
    subset = before.subset(5)
    assert subset.contents().tolist() == before.contents()[subset.indices].tolist()


def test_an_overwritten_image_changes_the_identity(tmp_path):
    write_images(tmp_path / "images", 3, "dots", 0)
    before = folder_set("mine", tmp_path / "images").identity()
    assert folder_set("mine", tmp_path / "images").identity() == before
    first, second = (tmp_path / "images" / name for name in ("000.png", "001.png"))
    first.write_bytes(second.read_bytes())
    assert folder_set("mine", tmp_path / "images").identity() != before
