"""Layer masking: a CNN that sees a part of the image."""

import pytest
import torch
from timm import create_model
from torch import nn
from torchvision.models import resnet18, squeezenet1_1

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.layer_masking import MaskedMaps, layer_masked
from diffguard.errors import UserError
from tests.helpers.tiny_models import tiny_classifier

NETWORKS = {
    "small_cnn": lambda: tiny_classifier(3).network,
    "resnet18": lambda: resnet18(num_classes=3),
    "squeezenet": lambda: squeezenet1_1(num_classes=3),
    # Depthwise convolutions and squeeze-and-excitation.
    "mobilenetv3": lambda: create_model("mobilenetv3_small_050", num_classes=3),
}


def images_and_masks(size=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=generator)
    masks = torch.zeros(2, size, size, dtype=torch.bool)
    masks[0, 5:15, 9:30] = True
    masks[1, 20, 3] = True
    return images, masks


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_hidden_pixels_change_nothing_and_no_mask_changes_nothing(name):
    torch.manual_seed(0)
    classifier = Classifier(NETWORKS[name](), 3).eval()
    images, masks = images_and_masks()
    whole = classifier.forward_features(images)
    for visible in (torch.ones_like(masks), torch.zeros_like(masks)):
        output = layer_masked(classifier, images, visible)
        torch.testing.assert_close(output.features, whole.features)
        torch.testing.assert_close(output.logits, whole.logits)
        assert type(output.features) is torch.Tensor
    output = layer_masked(classifier, images, masks)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    other = torch.where(masks.unsqueeze(1), images, noise)
    again = layer_masked(classifier, other, masks)
    assert torch.equal(again.features, output.features)
    assert torch.equal(again.logits, output.logits)
    assert not torch.allclose(output.features, whole.features)
    inside = torch.where(masks.unsqueeze(1), noise, images)
    assert not torch.equal(layer_masked(classifier, inside, masks).features, output.features)


@torch.no_grad()
def test_a_convolution_and_pooling_by_hand():
    x = torch.tensor([[1.0, 9.0, 9.0, 9.0], [3.0, 9.0, 9.0, 9.0], [9.0] * 4, [9.0] * 4])
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, 0] = True
    maps = MaskedMaps.of(x.view(1, 1, 4, 4), mask)
    # The first ring is 2, 2 and, below the corner, 3; the second ring is the mean of the first.
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.fill_(1.0)
    result = conv(maps)
    assert result.mask[0, 0].tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, True, False, False],
        [False, False, False, False],
    ]
    # Rows 0 and 1 of columns 0 and 1, and zeros around the image.
    assert float(result.flatten(1)[0, 0]) == 1 + 3 + 2 + 2
    pooled = nn.MaxPool2d(2)(maps)
    assert pooled.mask[0, 0].tolist() == [[True, False], [False, False]]
    assert float(pooled.flatten(1)[0, 0]) == 3
    assert float(nn.AvgPool2d(2)(maps).flatten(1)[0, 0]) == 2
    assert float(maps.mean((2, 3))) == float(nn.AdaptiveAvgPool2d(1)(maps)) == 2
    # Hidden positions are filled before maps become a vector.
    assert maps.flatten(1).max() < 4
    # Where branches meet, a position must be visible in all of them.
    assert torch.equal((result + maps).mask, mask)
    # A stride larger than the kernel skips the visible positions, but not what was filled.
    strided = nn.Conv2d(1, 1, 1, stride=4)(maps)
    assert strided.mask.all()


@torch.no_grad()
def test_masks_follow_the_center_crop():
    network = NETWORKS["resnet18"]()
    cropped = Classifier(network, 3, size=(32, 32), resize=40).eval()
    images, masks = images_and_masks(40)
    output = layer_masked(cropped, images, masks, ["layer1"])
    inner = images[..., 4:36, 4:36], masks[..., 4:36, 4:36]
    expected = layer_masked(Classifier(network, 3).eval(), *inner, ["layer1"])
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.layers["layer1"], expected.layers["layer1"])
    assert type(output.layers["layer1"]) is torch.Tensor


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (lambda: nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(48, 3)), "group_norm"),
        (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Flatten(), nn.Linear(48, 3)), "pixel"),
        (lambda: create_model("vit_tiny_patch16_224", num_classes=3, img_size=16), "flatten"),
    ],
)
def test_a_network_that_cannot_be_followed_is_refused(network, name):
    size = 16 if name == "flatten" else 4
    classifier = Classifier(network(), 3).eval()
    images, masks = torch.rand(2, 3, size, size), torch.ones(2, size, size, dtype=torch.bool)
    with pytest.raises(UserError, match=f"layer masking cannot follow .* {name}.*expected a CNN"):
        layer_masked(classifier, images, masks)
