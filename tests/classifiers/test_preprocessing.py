"""What libraries publish of their models, and that images reach the networks as they say."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.preprocessing import Preprocessing, published_preprocessing
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def picture(side=300):
    """A square image of waves, `(1, 3, side, side)` in [0, 1], in steps of 1/255."""
    places = torch.linspace(0, 9, side)
    waves = [(places * k).sin()[:, None] * (places * (4 - k)).cos() for k in (1, 2, 3)]
    return ((torch.stack(waves)[None] + 1) / 2 * 255).round() / 255


@pytest.mark.parametrize(
    ("arch", "kwargs", "expected"),
    [
        ("torchvision/resnet50", {}, ((224, 224), 232, "bilinear", *IMAGENET)),
        ("torchvision/resnet50.IMAGENET1K_V1", {}, ((224, 224), 256, "bilinear", *IMAGENET)),
        ("torchvision/swin_t", {}, ((224, 224), 232, "bicubic", *IMAGENET)),
        ("torchvision/vit_b_16", {"image_size": 112}, ((112, 112), 128, "bilinear", *IMAGENET)),
        ("timm/tf_efficientnet_lite0", {}, ((224, 224), 256, "bicubic", *HALF)),
        ("timm/test_resnet.r160_in1k", {}, ((160, 160), 168, "bilinear", *HALF)),
        ("timm/vit_tiny_patch16_224", {"img_size": 45}, ((45, 45), 50, "bicubic", *HALF)),
        ("openood/ResNet50", {}, ((224, 224), 256, "bilinear", *IMAGENET)),
        ("small_cnn", {}, (None, None, "bilinear", (0.0,), (1.0,))),
    ],
)
def test_published_preprocessing_is_used(arch, kwargs, expected):
    assert published_preprocessing(arch, kwargs, 1000, 3) == Preprocessing(*expected)


def test_openood_normalizes_by_the_data_set():
    ten, hundred, other = (
        published_preprocessing("openood/ResNet18_32x32", {}, classes, 3)
        for classes in (10, 100, 7)
    )
    assert ten.std == (0.2470, 0.2435, 0.2616)
    assert hundred.mean == (0.5071, 0.4867, 0.4408)
    assert other.mean == (0.0,)
    assert {ten.size, hundred.size, other.size} == {(32, 32)}


def test_gray_networks_of_timm_have_no_published_normalization():
    assert published_preprocessing("timm/test_resnet", {}, 5, 1).mean == (0.5,)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("torchvision/no_such", "torchvision/no_such cannot be built"),
        ("torchvision/resnet18.V9", "unknown weights V9"),
        ("timm/no_such", r"unknown model \(no_such\)"),
        ("timm/test_resnet.v9", "v9"),
        ("openood/LeNet", "openood/LeNet is not known, expected openood/ResNet18_32x32"),
    ],
)
def test_unknown_names_are_refused(arch, message):
    with pytest.raises(UserError, match=message) as caught:
        build_classifier(ClassifierSpec(arch, 10))
    assert "\n" not in str(caught.value)


def test_values_of_the_user_override_published_ones():
    spec = ClassifierSpec("timm/test_resnet", 4, size=[64, 48], mean=[0.1], interpolation="bicubic")
    result = resolve_spec(spec)
    assert (result.size, result.resize, result.interpolation) == ([64, 48], None, "bicubic")
    assert (result.mean, result.std) == ([0.1], [0.5, 0.5, 0.5])
    cropped = resolve_spec(ClassifierSpec("timm/test_resnet", 4, resize=200))
    assert (cropped.size, cropped.resize) == ([160, 160], 200)


def test_a_resolved_spec_does_not_change():
    for arch in ("timm/test_resnet", "torchvision/resnet18", "small_cnn"):
        result = resolve_spec(ClassifierSpec(arch, 4))
        assert resolve_spec(result) == result


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "resnet18"])
def test_images_arrive_as_torchvision_prepares_them(name):
    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()(picture())
    result = build_classifier(ClassifierSpec(f"torchvision/{name}", 5)).normalize(picture())
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "test_vit"])
def test_images_arrive_as_timm_prepares_them(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    eight_bit = (picture()[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    expected = timm.data.create_transform(**config)(Image.fromarray(eight_bit))
    result = build_classifier(ClassifierSpec(f"timm/{name}", 5)).normalize(picture())[0]
    # Pillow rounds to 8 bits after either direction.
    assert float((result - expected).abs().max()) < 1.5 / 255 / min(config["std"])
