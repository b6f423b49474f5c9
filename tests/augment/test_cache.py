"""Edits on disk."""

import pytest
import torch

from diffguard.augment import cache as module
from diffguard.augment.cache import EditCache, cache_folder
from diffguard.augment.checking import Edits
from diffguard.errors import UserError


def edits_of(count, level):
    images = torch.full((count, 1, 2, 2), level / 255)
    return Edits(images, torch.arange(count) > 0, torch.tensor([0, 1, 2, 3]))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    return EditCache(tmp_path / "edits", 10)


def test_blocks_are_joined_in_order_whatever_the_order_they_were_made_in(cache):
    assert cache.pending() == [0, 1, 2]
    for number in (2, 0):
        cache.write(number, edits_of(len(cache.blocks[number]), 10 * number))
    assert cache.pending() == [1]
    assert not cache.is_complete
    cache.write(1, edits_of(4, 10))
    cache.finish()
    assert cache.is_complete
    assert cache.pending() == []
    assert cache.read().dtype == torch.uint8
    assert cache.read()[:, 0, 0, 0].tolist() == [0] * 4 + [10] * 4 + [20] * 2
    rejected = {"blank": 3, "collapsed": 6, "label": 9}
    assert cache.summary() == {"images": 10, "edited": 7, "rejected": rejected}
    assert sorted(path.name for path in cache.folder.iterdir()) == ["edits.json", "edits.npy"]


def test_edits_of_other_images_are_refused(cache):
    for number, block in enumerate(cache.blocks):
        cache.write(number, edits_of(len(block), 0))
    cache.finish()
    with pytest.raises(UserError, match="does not hold 11 edits"):
        EditCache(cache.folder, 11).read()


def test_another_run_may_join_the_blocks_first(cache):
    for number, block in enumerate(cache.blocks):
        cache.write(number, edits_of(len(block), number))
    other = EditCache(cache.folder, cache.count)
    other.finish()
    cache.finish()
    assert cache.read()[:, 0, 0, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 2


def test_damaged_files_are_named(cache):
    for number, block in enumerate(cache.blocks):
        cache.write(number, edits_of(len(block), 0))
    (cache.folder / "block-00001.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"block-00001\.safetensors cannot be read"):
        cache.finish()
    (cache.folder / "edits.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"edits\.npy cannot be read"):
        cache.read()


def test_the_folder_depends_on_every_value(tmp_path):
    folders = {cache_folder(tmp_path, {"images": i, "depth": d}) for i in "ab" for d in (0.4, 0.5)}
    assert len(folders) == 4
    same = cache_folder(tmp_path, {"depth": 0.4, "images": "a"})
    assert same in folders
