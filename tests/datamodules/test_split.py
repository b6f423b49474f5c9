"""Splitting one folder into three parts."""

import numpy as np
import pytest
from PIL import Image

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Ten cats and five dogs."""
    for name, count in (("cat", 10), ("dog", 5)):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((4, 4), number * 10, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / name / f"{number}.png")
    return tmp_path / "all"


def parts(folder, **options):
    data = OODDataModule(DataConfig(IDSets(all=str(folder), **options), name="pets", image_size=4))
    sets = {p: data.evaluation_sets(p)[0] for p in ("train", "validation", "test")}
    return {p: [images.path(i) for i in images.indices] for p, images in sets.items()}, sets


def test_every_image_is_in_one_part_and_every_class_in_each(folder):
    paths, sets = parts(folder)
    assert sorted(path for part in paths.values() for path in part) == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.png")
    )
    counts = {
        p: [sum(n.startswith(c) for n in ps) for c in ("cat", "dog")] for p, ps in paths.items()
    }
    assert counts == {"train": [6, 3], "validation": [2, 1], "test": [2, 1]}
    assert [s.name for s in sets.values()] == ["pets_train", "pets_validation", "pets"]
    assert sets["test"].labels.tolist() == [0, 0, 1]
    assert sets["test"].class_names == ("cat", "dog")


def test_the_split_is_reproducible_and_not_by_name(folder):
    first, _ = parts(folder)
    assert parts(folder)[0] == first
    names = [path for path in first["test"] if path.startswith("cat")]
    assert names not in (["cat/8.png", "cat/9.png"], ["cat/0.png", "cat/1.png"])


def test_shares_can_be_chosen(folder):
    paths, _ = parts(folder, shares=[0.2, 0.2, 0.6])
    assert {part: len(names) for part, names in paths.items()} == {
        "train": 3,
        "validation": 3,
        "test": 9,
    }


def test_a_part_without_images_is_refused(folder):
    data = OODDataModule(DataConfig(IDSets(all=str(folder), shares=[0.5, 0.5, 0.0]), image_size=4))
    with pytest.raises(
        UserError, match=r"the test part of data\.id\.all gets none of its 15 images"
    ):
        data.evaluation_sets("test")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (IDSets(all="x", train="y"), "leave out data.id.train, validation and test"),
        (IDSets(all="x", shares=[0.5, 0.5]), "three shares"),
        (IDSets(all="x", shares=[0.5, 0.6, -0.1]), "three shares"),
        (IDSets(all="x", shares=[0.5, 0.4, 0.2]), "with sum 1"),
    ],
)
def test_wrong_shares_are_refused(sets, message):
    with pytest.raises(UserError, match=message):
        OODDataModule(DataConfig(sets))


def test_the_folder_cannot_be_an_ood_set_too(folder):
    with pytest.raises(UserError, match="nothing may be"):
        OODDataModule(DataConfig(IDSets(all=str(folder)), ood_validation={"mine": str(folder)}))
    with pytest.raises(UserError, match=r"test is not set.* or score a folder with --images"):
        OODDataModule(DataConfig(IDSets(validation=str(folder)), OODSets())).evaluation_sets("test")
