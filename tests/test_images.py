import numpy as np
import pytest
import torch
from PIL import Image

from diffguard.errors import UserError
from diffguard.images import (
    check_range,
    convert_channels,
    resize_and_crop,
    resize_to,
    to_image_range,
    to_model_range,
)


def random_images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_any_float_become_float32(dtype):
    images = random_images(2, 3, 4, 5).to(dtype)
    checked = check_range(images)
    assert checked.dtype == torch.float32
    assert torch.equal(checked, images.float())


def test_the_ends_of_the_range_and_empty_batches_are_accepted():
    check_range(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert len(check_range(torch.zeros(0, 3, 4, 4))) == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.001001, r"got values in \[-0.001001, -0.001001\]"),
        (255.0, r"must lie in \[0, 1\]"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_values_out_of_range_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        check_range(torch.full((1, 3, 4, 4), value))


def test_a_single_bad_pixel_is_detected():
    images = random_images(4, 3, 5, 5)
    images[2, 1, 3, 3] = float("nan")
    with pytest.raises(UserError):
        check_range(images)


def test_gray_is_the_luma_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    color = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    theirs = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L"))) / 255
    assert (convert_channels(color, 1)[0] - theirs).abs().max() <= 1 / 255


def test_gray_becomes_three_equal_channels_and_back():
    gray = random_images(2, 1, 4, 4)
    color = convert_channels(gray, 3)
    assert color.shape == (2, 3, 4, 4)
    assert all(torch.equal(color[:, c : c + 1], gray) for c in range(3))
    torch.testing.assert_close(convert_channels(color, 1), gray)
    assert convert_channels(gray, 1) is gray


def test_the_center_square_is_kept():
    image = torch.zeros(1, 4, 10)
    image[..., 3:7] = 1.0
    assert torch.equal(resize_and_crop(image, 4), torch.ones(1, 4, 4))
    assert torch.equal(resize_and_crop(image.mT, 4), torch.ones(1, 4, 4))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (31, 20), (1, 6)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_images_of_any_size_get_the_working_size(batch, height, width):
    result = resize_and_crop(random_images(*batch, 3, height, width), 8)
    assert result.shape == (*batch, 3, 8, 8)
    assert result.min() >= 0
    assert result.max() <= 1


def test_images_of_the_working_size_are_unchanged():
    image = random_images(3, 8, 8)
    assert resize_and_crop(image, 8) is image
    assert resize_to(image, (8, 8)) is image


def test_shrinking_is_antialiased_by_default():
    stripes = torch.zeros(1, 1, 12, 12)
    stripes[..., ::3] = 1.0  # the mean is a third
    smooth = resize_to(stripes, (4, 4))
    torch.testing.assert_close(smooth[..., 1:-1], torch.full((1, 1, 4, 2), 1 / 3))
    assert not torch.allclose(resize_to(stripes, (4, 4), antialias=False), smooth, atol=0.1)


def test_height_and_width_keep_their_order():
    assert resize_to(torch.zeros(3, 4, 5), (7, 2)).shape == (3, 7, 2)


def test_conversions_of_the_range_are_inverse():
    images = random_images(2, 3, 4, 4)
    x = to_model_range(images)
    assert to_model_range(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1.0, 0.0, 1.0]
    torch.testing.assert_close(to_image_range(x), images)
    assert to_image_range(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]
