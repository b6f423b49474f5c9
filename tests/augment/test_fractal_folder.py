"""Images of a folder as fractals."""

import pytest
import torch
from torchvision.utils import save_image

from diffguard.augment.fractal_folder import read_fractals
from diffguard.errors import UserError


def test_images_are_read_in_the_order_of_their_names(tmp_path):
    for name, level in (("b.png", 1.0), ("a.png", 0.0)):
        save_image(torch.full((3, 12, 12), level), tmp_path / name)
    (tmp_path / "readme.txt").write_text("not an image")
    fractals = read_fractals(tmp_path, 8, 1)
    assert fractals.shape == (2, 1, 8, 8)
    assert fractals[:, 0, 0, 0].tolist() == [0, pytest.approx(1)]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        read_fractals(tmp_path, 8, 1)
    with pytest.raises(UserError, match="does not exist"):
        read_fractals(tmp_path / "absent", 8, 1)
