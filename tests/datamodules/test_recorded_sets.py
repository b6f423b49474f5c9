"""The record with which tests detect that a test image is read."""

from datamodules.sources import open_set
from tests.helpers.every_source import SOURCES, write_every_source
from tests.helpers.read_sets import recorded_sets, set_kinds
from tests.helpers.tiny_project import write_images


def test_an_image_of_any_kind_of_set_is_recorded(tmp_path, monkeypatch):
    write_images(tmp_path / "near", 2, "blank", 0)
    write_every_source(tmp_path, monkeypatch)
    sets = recorded_sets(monkeypatch)
    opened = [
        open_set(name, source, root=tmp_path, labeled=False) for name, source in SOURCES.items()
    ]
    assert {type(images) for images in opened} == set(set_kinds())
    assert not sets
    for number, images in enumerate(opened, 1):
        assert images[0]["image"].ndim == 3
        assert len(sets) == number
    assert sets == set(SOURCES)
