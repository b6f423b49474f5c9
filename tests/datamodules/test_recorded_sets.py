"""The record with which tests detect that a test image is read."""

import shutil

from datamodules.sources import open_set
from tests.helpers.every_source import SOURCES, write_every_source
from tests.helpers.read_sets import recorded_sets, set_kinds
from tests.helpers.tiny_project import write_images


def test_an_image_of_any_kind_of_set_is_recorded(tmp_path, monkeypatch):
    write_images(tmp_path / "near", 2, "blank", 0)
    write_every_source(tmp_path, monkeypatch)
    sets = recorded_sets(monkeypatch, tmp_path, tests=())
    opened = [
        open_set(name, source, root=tmp_path, labeled=False) for name, source in SOURCES.items()
    ]
    assert {type(images) for images in opened} == set(set_kinds())
    assert not sets
    for number, images in enumerate(opened, 1):
        assert images[0]["image"].ndim == 3
        assert len(sets) == number
    assert sets == set(SOURCES)


def test_a_test_image_is_recognized_by_its_pixels(tmp_path, monkeypatch):
    write_images(tmp_path / "far", 2, "noise", 0)
    write_images(tmp_path / "mixed", 2, "noise", 1)
    shutil.copy(tmp_path / "far" / "001.png", tmp_path / "mixed" / "other.png")
    sets = recorded_sets(monkeypatch, tmp_path, tests=("folder:far",))
    mixed = open_set("choice", "folder:mixed", root=tmp_path, labeled=False)
    assert [mixed[position]["path"] for position in range(2)] == ["000.png", "001.png"]
    assert sets == {"choice"}
    assert mixed[2]["path"] == "other.png"
    assert sets == {"choice", "choice (folder:far)"}
