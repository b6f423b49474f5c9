"""Reading images of every mode, preparing them to the working size, and augmentation."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.augmentation import Prepare, augmentation
from diffguard.errors import UserError
from diffguard.inputs.image_files import read_image


def _save(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_pixels_are_scaled_to_one(tmp_path):
    gray = Image.fromarray(np.array([[0, 51, 255]], dtype=np.uint8))
    torch.testing.assert_close(read_image(_save(tmp_path, gray)), torch.tensor([[[0.0, 0.2, 1.0]]]))
    red = read_image(_save(tmp_path, Image.new("RGB", (3, 2), (255, 0, 51))))
    assert red.shape == (3, 2, 3)
    assert red.dtype == torch.float32
    torch.testing.assert_close(red[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("format", ["BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PPM", "TIFF", "WEBP"])
def test_every_format_is_read(tmp_path, format):
    path = _save(tmp_path, Image.new("RGB", (16, 16), (200, 100, 0)), format=format)
    expected = torch.tensor([200.0, 100.0, 0.0]) / 255
    torch.testing.assert_close(read_image(path)[:, 8, 8], expected, atol=0.02, rtol=0)


def test_one_bit_images_are_grayscale(tmp_path):
    pixels = read_image(_save(tmp_path, Image.new("1", (2, 2), 1)))
    assert torch.equal(pixels, torch.ones(1, 2, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(tmp_path, mode):
    black = (0,) * (len(mode) - 1)
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 51, 0)):
        image.putpixel((x, 0), (*black, alpha))
    pixels = read_image(_save(tmp_path, image))
    assert len(pixels) == len(black)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([0.0, 0.8, 1.0]))


def test_palettes_are_converted_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    plain = read_image(_save(tmp_path, image))
    assert plain[:, 0].T.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    clear = read_image(_save(tmp_path, image, transparency=0))
    assert clear[:, 0].T.tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bit_images_keep_their_scale(tmp_path, name):
    deep = np.array([[0, 300, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / name
    if path.suffix == ".pgm":  # older versions of Pillow read it, but do not write it
        path.write_bytes(b"P5 4 1 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    pixels = read_image(path)
    torch.testing.assert_close(pixels, torch.from_numpy(deep / 65535.0).float()[None])


def test_float_images_must_lie_in_the_unit_range(tmp_path):
    values = np.array([[0.0, 0.25, 1.0]], dtype=np.float32)
    path = _save(tmp_path, Image.fromarray(values), "float.tif")
    assert torch.equal(read_image(path), torch.from_numpy(values)[None])
    path = _save(tmp_path, Image.fromarray(values * 255), "wide.tif")
    with pytest.raises(UserError, match=r"wide\.tif.*must lie in \[0, 1\], got \[0, 255\]"):
        read_image(path)


def test_cmyk_becomes_rgb(tmp_path):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    pixels = read_image(_save(tmp_path, cyan, "cyan.tif"))
    torch.testing.assert_close(pixels[:, 4, 4], torch.tensor([0.0, 1.0, 1.0]), atol=0.02, rtol=0)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    pixels = read_image(_save(tmp_path, image, exif=exif))
    assert pixels.shape == (3, 4, 2)
    assert pixels[:, 0, 1].tolist() == [1.0, 1.0, 1.0]
    assert pixels.sum() == 3


def test_unreadable_files_are_reported_in_one_line(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg"):
        path = _save(tmp_path, Image.fromarray(noise), name)
        path.write_bytes(path.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    # A vector format that Pillow would hand to another program.
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("cut.png", "cut.jpg", "text.png", "empty.png", "folder.png", "script.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read: .") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.png does not exist"):
        read_image(tmp_path / "absent.png")


def test_prepare_resizes_crops_and_converts():
    image = torch.zeros(3, 20, 40)
    image[:, :, 10:30] = 1.0
    prepared = Prepare(10, 1)(image)
    assert prepared.shape == (1, 10, 10)
    torch.testing.assert_close(prepared[:, :, 1:-1], torch.ones(1, 10, 8))
    gray = torch.rand(1, 10, 10)
    assert torch.equal(Prepare(10, 1)(gray), gray)
    assert torch.equal(Prepare(10, 3)(gray), gray.expand(3, 10, 10))
    assert Prepare(10, 3).blank().shape == (3, 10, 10)


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_prepare_crops_a_strip_before_enlarging_it(shape):
    middle = torch.zeros(1, *shape)
    middle[:, shape[0] // 2, shape[1] // 2] = 1.0  # enlarged first: 256 × 51,200,000 pixels
    prepared = Prepare(256, 1)(middle)
    assert prepared.shape == (1, 256, 256)
    assert prepared.max() > 0.5


@pytest.mark.parametrize("name", ["affine", "crop_flip", "reflect_crop_flip"])
def test_augmentation_changes_images_within_the_range(name):
    torch.manual_seed(0)
    image = torch.rand(1, 28, 28)
    augment = augmentation(name, 28)
    changed = augment(image)
    assert changed.shape == image.shape
    assert 0.0 <= changed.min() <= changed.max() <= 1.0
    assert not torch.equal(changed, augment(image))


def test_augmentation_none_is_the_identity_and_an_unknown_name_is_refused():
    image = torch.rand(1, 28, 28)
    assert torch.equal(augmentation("none", 28)(image), image)
    with pytest.raises(
        UserError, match="one of none, affine, flip, crop_flip, reflect_crop_flip, got 'blur'"
    ):
        augmentation("blur", 28)
