"""Image lists are compared with OpenOOD's, and the results name the version."""

import re
from pathlib import Path

import pytest
from PIL import Image

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.list_versions import _HASHES, list_version
from datamodules.ood import OODDataModule
from datamodules.sources import open_set
from diffguard.report.image_lists import image_list_notes

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# OpenOOD lists all training images of CIFAR-10, in another order.
TRAIN = [
    f"cifar10/train/{name}/{number:04d}.png {label}"
    for label, name in enumerate(CLASSES)
    for number in range(1, 5001)
]

CIFAR10_TEST = [
    f"cifar10/test/{name}/{number:04d}.png" for name in CLASSES for number in range(1, 1001)
]


@pytest.fixture
def write(tmp_path):
    def write(name, lines, end="\n"):
        path = tmp_path / "benchmark_imglist" / "cifar10" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(end.join([*lines, ""]).encode())
        image = tmp_path / "images_classic" / lines[0].split()[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(image)

    return write


@pytest.mark.parametrize(
    ("file", "paths"),
    [
        ("cifar100/test_cifar10.txt", CIFAR10_TEST),
        ("mnist/test_tin.txt", [f"tin/val/images/val_{number}.JPEG" for number in range(10000)]),
    ],
)
def test_lists_of_all_images_are_openoods(file, paths):
    labels = [-1] * len(paths)
    assert list_version(Path(file), paths, labels) == "OpenOOD v1.5"
    assert list_version(Path(file), paths[1:], labels[1:]) == "differs"


def test_the_documentation_names_the_lists_with_hashes():
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text(encoding="utf-8")
    items = re.findall(r"^  - `(\w+)`: (.+(?:\n    .+)*)", text, re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", lists) for name, lists in items} == {
        name: list(hashes) for name, hashes in _HASHES.items()
    }


def test_list_is_openoods_whatever_its_order_and_line_ends(write, tmp_path):
    write("train_cifar10.txt", TRAIN[::-1], end="\r\n")
    images = open_set("cifar10", "openood:cifar10/train", root=tmp_path, labeled=True)
    assert (images.list_version, images.remarks) == ("OpenOOD v1.5", [])


def test_other_list_of_the_same_name_is_reported(write, tmp_path, capsys):
    write("test_cifar10.txt", ["cifar10/test/cat/0002.png 3", "cifar10/test/dog/0003.png 5"])
    write("test_svhn.txt", ["svhn/test/005498_5.jpg -1"])
    source = "imglist:benchmark_imglist/cifar10/{}.txt@images_classic"
    config = DataConfig(
        name="cifar10",
        root=str(tmp_path),
        id=IDSets(test=source.format("test_cifar10")),
        ood=OODSets(far={"svhn": "openood:cifar10/far/svhn", "letters": "letters:test"}),
        limit=1,
    )
    lists = OODDataModule(config).image_lists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "test_cifar10.txt (2 images) is not OpenOOD v1.5's list of this name" in error
    assert lists == {
        "cifar10": {"list": "differs", "n": 2, "scored": 1},
        "svhn": {"list": "unverified", "n": 1, "scored": 1},
    }
    assert image_list_notes({"image_lists": lists}) == [
        (
            "Image lists",
            "not OpenOOD v1.5's, although named like it: cifar10 (1 of 2 images); unverified: "
            "svhn (1 images)",
        )
    ]


def test_note_names_the_version():
    entry = {"list": "OpenOOD v1.5", "n": 9000, "scored": 9000}
    expected = [("Image lists", "OpenOOD v1.5: cifar10 (9,000 images)")]
    assert image_list_notes({"image_lists": {"cifar10": entry}}) == expected
    joined = {"runs": [{"settings": {"image_lists": {"cifar10": entry}}}]}
    assert image_list_notes(joined) == expected
    assert image_list_notes({}) == []
