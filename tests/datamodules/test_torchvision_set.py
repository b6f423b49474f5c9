"""Data sets of torchvision by name: parts, labels, sections and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_set import MissingDataError
from datamodules.sources import open_set, same_source
from diffguard.errors import UserError


@pytest.fixture
def root(tmp_path):
    """DTD (with parts) and EuroSAT (without) in the folders that torchvision makes, tiny."""
    dtd, euro = tmp_path / "dtd" / "dtd", tmp_path / "eurosat" / "2750"
    for label, name in enumerate(("banded", "dotted")):
        for folder in (dtd / "images", euro):
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (6, 5), (51 * label, 0, 0)).save(folder / name / f"{name}_1.png")
    (dtd / "labels").mkdir()
    (dtd / "labels" / "test1.txt").write_text("dotted/dotted_1.png\nbanded/banded_1.png\n")
    return tmp_path


def test_any_data_set_of_torchvision_is_read(root):
    images = open_set("mine", "torchvision:DTD/test", root=root, labeled=True)
    assert (images.labels.tolist(), images.class_names) == ([1, 0], ("banded", "dotted"))
    assert images[0]["image"].shape == (3, 5, 6)
    assert [images[i]["image"].amax().item() for i in range(2)] == pytest.approx([0.2, 0])
    contents = images.contents()
    assert contents[0] != contents[1]
    assert open_set("x", "torchvision:DTD/test", root=root, labeled=False).labels[0] == -1
    part = open_set("mine", "torchvision:EuroSAT[1:]", root=root, labeled=True)
    assert (part.labels.tolist(), part[0]["index"], len(part)) == ([1], 1, 1)
    given = open_set("x", "torchvision:EuroSAT", root=root, labeled=True, class_names=["a", "b"])
    assert given.class_names == ("a", "b")


def test_a_missing_file_of_torchvision_is_a_users_error(root):
    images = open_set("mine", "torchvision:DTD/test", root=root, labeled=False)
    (root / "dtd" / "dtd" / "images" / "banded" / "banded_1.png").unlink()
    with pytest.raises(UserError, match=r"image 1 of mine cannot be read: .*No such file"):
        images.image(1)
    assert images.content(1) == -1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("CIFAR", "NAME to be a data set of torchvision"),
        ("CIFAR10", "expected torchvision:CIFAR10/train or test"),
        ("CIFAR10/val", "expected torchvision:CIFAR10/train or test"),
        ("EMNIST/letters", "expected torchvision:EMNIST/PART/train or test"),
        ("EuroSAT/test", "expected torchvision:EuroSAT$"),
        ("DTD/tests", "Unknown value 'tests' for argument split"),
        ("DTD/test[5]", r"optionally with the images \[FIRST:END\]"),
        ("DTD/test[2:]", "at least one of the 2 images of DTD/test"),
        ("CocoDetection", "CocoDetection needs annFile"),
        ("FakeData", "FakeData needs no folder"),
    ],
)
def test_error_of_a_wrong_source_gives_the_form(root, source, message):
    with pytest.raises(UserError, match=message) as caught:
        open_set("mine", f"torchvision:{source}", root=root, labeled=False)
    assert "'mine'" in str(caught.value)
    assert not isinstance(caught.value, MissingDataError)


@pytest.mark.parametrize("source", ["SVHN/test", "EMNIST/letters/test", "Food101/test"])
def test_nothing_is_downloaded_unless_the_config_asks_for_it(tmp_path, source):
    name = source.partition("/")[0]
    with pytest.raises(MissingDataError, match=f"found no {name} in .*--data.download true"):
        open_set("mine", f"torchvision:{source}", root=tmp_path, labeled=False)
    assert not list(tmp_path.rglob("*.*"))


def fake(monkeypatch, name, data, labels, item=None):
    """A data set in place of torchvision's; returns the arguments that it is opened with."""
    arguments = {}

    class Fake:
        classes = (("tench", "Tinca tinca"), "shark", "ray")

        def __init__(self, root, train=True, download=False):
            arguments.update(root=str(root), train=train, download=download)
            self.data, self.targets = data, labels

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return (item, self.targets[index])

    monkeypatch.setattr(f"torchvision.datasets.{name}", Fake)
    return arguments


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("CIFAR10", np.zeros((3, 32, 32, 3), np.uint8)),
        ("SVHN", np.zeros((3, 3, 32, 32), np.uint8)),
        ("MNIST", torch.zeros(3, 28, 28, dtype=torch.uint8)),
    ],
)
def test_arrays_of_torchvision_are_read(monkeypatch, name, pixels):
    arguments = fake(monkeypatch, name, pixels, [2, 0, 1])
    pixels[1] = 255
    images = open_set("mine", f"torchvision:{name}/test", root="data", labeled=True)
    assert arguments == {"root": "data", "download": False, "train": False}
    assert (images.labels.tolist(), images.class_names[0]) == ([2, 0, 1], "tench, Tinca tinca")
    assert images[1]["image"].shape == ((1, 28, 28) if name == "MNIST" else (3, 32, 32))
    assert [images[i]["image"].mean().item() for i in range(3)] == [0.0, 1.0, 0.0]
    section = open_set("mine", f"torchvision:{name}/test[1:9]", root=None, labeled=True)
    assert (section.labels.tolist(), [section[i]["index"] for i in range(2)]) == ([0, 1], [1, 2])


@pytest.mark.parametrize("targets", [[(0, 1), (1, 1)], [None, None], [-1, 0]])
def test_an_id_set_needs_one_class_per_image(monkeypatch, targets):
    fake(monkeypatch, "KMNIST", [0, 1], targets, Image.new("L", (2, 2)))
    assert len(open_set("ood", "torchvision:KMNIST/test", root=None, labeled=False)) == 2
    with pytest.raises(UserError, match="an ID set, and this data set has no class per image"):
        open_set("id", "torchvision:KMNIST/test", root=None, labeled=True)


def test_items_that_are_not_images_are_refused(monkeypatch):
    fake(monkeypatch, "KMNIST", [0, 1], [0, 1], torch.zeros(8, 3, 2, 2))
    with pytest.raises(UserError, match="a data set of single images, and KMNIST is not one"):
        open_set("ood", "torchvision:KMNIST/test", root=None, labeled=False)


def test_overlapping_sections_are_the_same_source():
    test = "torchvision:CIFAR10/test"
    assert same_source(test, test, None)
    assert same_source(test, f"{test}[10:20]", None)
    assert same_source(f"{test}[:11]", f"{test}[10:]", None)
    assert not same_source(f"{test}[:10]", f"{test}[10:]", None)
    assert not same_source(f"{test}[10:20]", "torchvision:CIFAR100/test[10:20]", None)
    assert not same_source(test, "torchvision:CIFAR10/train", None)
    assert same_source("hf:a/b/test", "hf:a/b/test[:5]", None)
    assert not same_source("hf:a/b/test", "hf:a/c/test", None)


def test_the_default_config_of_the_hub_may_be_omitted():
    assert same_source("hf:a/b/train", "hf:a/b/default/train", None)
    assert not same_source("hf:a/b/train[:5]", "hf:a/b/default/train[5:]", None)
    assert not same_source("hf:a/b/train", "hf:a/b/large/train", None)
    assert not same_source("hf:a/b/train", "hf:a/b/default/test", None)


def test_ranges_of_digits_with_a_digit_in_common_are_the_same_source():
    assert same_source("digits:0-5/test", "digits:5-9/test", None)
    assert same_source("digits:0-5", "digits:2-3/test", None)
    assert not same_source("digits:0-5/train", "digits:0-5/test", None)
    assert not same_source("digits:0-5/test", "digits:6-9/test", None)


def test_a_combined_part_is_the_same_source_as_its_parts():
    pets = "torchvision:OxfordIIITPet"
    assert same_source(f"{pets}/trainval", f"{pets}/val", None)
    assert not same_source(f"{pets}/trainval", f"{pets}/test", None)
