import numpy as np
import pytest

from diffguard.errors import UserError
from diffguard.score_table.contents import changed_images, read_contents, write_contents

NOW = np.array([5, 7, -1, 9], dtype=np.int64)
SCORED = np.array([True, True, False, False])


def test_an_image_may_change_before_it_is_scored(tmp_path):
    assert read_contents(tmp_path) is None
    assert changed_images(tmp_path, NOW, SCORED & ~SCORED).tolist() == []
    with pytest.raises(UserError, match="unknown whether the scored images are still the same"):
        changed_images(tmp_path, NOW, SCORED)
    write_contents(tmp_path, NOW)
    assert read_contents(tmp_path).tolist() == NOW.tolist()
    repaired = np.array([5, 7, 80, 9])
    assert changed_images(tmp_path, repaired, SCORED).tolist() == []
    write_contents(tmp_path, repaired)
    assert changed_images(tmp_path, NOW, ~SCORED).tolist() == [2]
    assert changed_images(tmp_path, np.array([4, 6, 80, 8]), SCORED).tolist() == [0, 1]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "contents.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"contents\.npy cannot be read"):
        read_contents(tmp_path)
