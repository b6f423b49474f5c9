"""Images in every form reach the working size; forms with two meanings are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.augmentation import Prepare
from diffguard.errors import UserError
from diffguard.images import to_working_size
from diffguard.inputs.image_files import read_image
from diffguard.inputs.working import working_images

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)
EXPECTED = to_working_size(TENSOR / 255, 8, 3)


def forms(folder):
    """The same image in every form."""
    Image.fromarray(PIXELS).save(folder / "x.png")
    return {
        "CHW uint8": TENSOR,
        "CHW float": TENSOR / 255,
        "NCHW": (TENSOR / 255)[None],
        "HWC uint8": PIXELS,
        "HWC float": (PIXELS / np.float32(255)),
        "NHWC, reversed in memory": np.flip(np.flip(PIXELS, 1).copy(), 1)[None],
        "PIL": Image.fromarray(PIXELS),
        "path": folder / "x.png",
        "text": str(folder / "x.png"),
    }


def test_an_image_is_the_same_in_every_form(tmp_path):
    images = forms(tmp_path)
    for form, image in images.items():
        assert torch.equal(working_images(image, 8, 3), EXPECTED[None]), form
    together = working_images(list(images.values()), 8, 3)
    assert torch.equal(together, EXPECTED.expand(len(images), -1, -1, -1))


def test_lists_hold_images_of_different_sizes_and_channels():
    images = working_images([PIXELS, torch.zeros(1, 5, 9), np.ones((4, 4))], 8, 1)
    assert images.shape == (3, 1, 8, 8)
    assert torch.equal(images[0], to_working_size(TENSOR / 255, 8, 1))
    assert not images[1].any()
    assert bool((images[2] == 1).all())
    assert working_images([], 8, 3).shape == (0, 3, 8, 8)


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)


def transparent(path):
    Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])).save(path)


def deep(path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path)


@pytest.mark.parametrize("write", [rotated, transparent, deep])
def test_a_path_and_an_opened_image_are_read_like_a_file_of_a_data_set(tmp_path, write):
    path = Path(tmp_path / "x.png")
    write(path)
    expected = Prepare(8, 3)(read_image(path))[None]
    assert torch.equal(working_images(path, 8, 3), expected)
    with Image.open(path) as image:
        assert torch.equal(working_images(image, 8, 3), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 3, 3), r"image\[None\] if the channels are first, image.permute"),
        (np.zeros((3, 3, 3)), r"first or last: write torch.from_numpy\(x\)\[None\] if"),
        (np.zeros((2, 3, 9, 3)), r"torch.from_numpy\(x\).permute\(0, 3, 1, 2\) if they are last"),
        (np.zeros((3, 8, 9)), r"x.transpose\(1, 2, 0\), or write torch.from_numpy\(x\)"),
        (np.zeros((5, 3, 8, 9)), r"x.transpose\(0, 2, 3, 1\)"),
        (torch.zeros(8, 9, 3), r"x.permute\(2, 0, 1\)"),
        (np.zeros((8, 9, 4), np.uint8), r"PIL.Image.fromarray\(x\)"),
        (np.zeros((7, 8, 9)), r"x\[..., None\] for a batch of gray images"),
        (np.zeros(5), "got shape"),
        (np.zeros((8, 9), np.int16), "scale of int16 images is unknown"),
        (np.full((8, 9), 255.0), r"must lie in \[0, 1\], got values in \[255, 255\]"),
        (np.full((8, 9), "a"), "is unknown"),
        (torch.zeros(3, 8, 9, dtype=torch.int64), "scale of torch.int64 images is unknown"),
        ([torch.zeros(2, 3, 8, 9)], "image 0 of the list is a batch of 2 images"),
        ([[0.0, 1.0]], "image 0 of the list: images of type list are not supported"),
        (Image.fromarray(np.zeros((4, 4), np.int32)), "mode I has 32-bit integers"),
        ("", "image is empty"),
        (b"x.png", "images of type bytes are not supported"),
        ({"image": 1}, "images of type dict are not supported"),
    ],
)
def test_other_forms_are_refused_in_one_line(image, message):
    with pytest.raises(UserError, match=message) as caught:
        working_images(image, 8, 3)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(UserError, match=r"x\.png cannot be read: it is not a BMP"):
        working_images(tmp_path / "x.png", 8, 3)
    with pytest.raises(UserError, match="it is a folder, expected a file"):
        working_images(tmp_path, 8, 3)
    rotated(tmp_path / "y.png")
    (tmp_path / "y.png").write_bytes((tmp_path / "y.png").read_bytes()[:-60])
    with Image.open(tmp_path / "y.png") as image, pytest.raises(UserError, match="PIL image"):
        working_images(image, 8, 3)


@pytest.mark.parametrize("hint", [lambda x: x[None], lambda x: x.permute(2, 0, 1)[None]])
def test_the_advice_for_an_ambiguous_shape_works(hint):
    image = torch.rand(3, 3, 3)
    assert torch.equal(working_images(hint(image), 3, 3), hint(image))
    array = image.numpy()
    assert torch.equal(working_images(hint(torch.from_numpy(array)), 3, 3), hint(image))
