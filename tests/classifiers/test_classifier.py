"""The wrapper around the protected network: what it takes, and the places it reads."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from diffguard.classifiers.cam import cam_maps, forward_cam
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.errors import UserError
from tests.helpers.tiny_models import tiny_classifier


def _torchvision_resnet():
    return torchvision.models.resnet18(num_classes=6)


def _timm_resnet():
    return timm.create_model("resnet10t", num_classes=6)


def _vit(**options):
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=6, **options
    )


# Network, name of its last linear layer, and its last layer with maps or tokens.
FAMILIES = {
    "small cnn": (lambda: SmallCNN(6, 3, width=4), "fc", "stage3"),
    "torchvision resnet": (_torchvision_resnet, "fc", "layer4"),
    "timm resnet": (_timm_resnet, "fc", "layer4"),
    "timm vit": (_vit, "head", "blocks.1.norm1"),
    "timm vit, mean of tokens": (
        lambda: _vit(class_token=False, global_pool="avg"),
        "head",
        "blocks.1.norm1",
    ),
}


@pytest.fixture(scope="module")
def built():
    """Each family's classifier, built once."""
    torch.manual_seed(0)
    return {name: Classifier(make(), 6).eval() for name, (make, *_) in FAMILIES.items()}


def images(side=32, channels=3, count=2):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_enter_the_last_linear_layer(family, built):
    classifier, side = built[family], 64 if "resnet" in family else 32
    _, head, _ = FAMILIES[family]
    with torch.no_grad():
        output = classifier.forward_features(images(side))
        assert classifier.feature_layer == head
        assert classifier.head is classifier.network.get_submodule(head)
        torch.testing.assert_close(classifier.head(output.features), output.logits)
        assert torch.equal(output.logits, classifier(images(side)))
    assert not classifier.feature_module._forward_pre_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cam_layer_is_found(family, built):
    classifier, side = built[family], 64 if "resnet" in family else 32
    logits, activation = forward_cam(classifier, images(side))
    assert classifier.cam_layer == FAMILIES[family][2]
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), activation)
    assert float(gradient.abs().max()) > 0
    maps = cam_maps(classifier, activation)
    assert maps.ndim == 4
    assert maps.shape[2] == maps.shape[3] > 1


def test_named_layers_are_the_outputs_of_the_layers():
    # The ReLU behind `bn1` works in place: it must not reach what was read.
    torch.manual_seed(0)
    classifier = Classifier(_torchvision_resnet(), 6).eval()
    names = ["bn1", "layer1.0", "fc"]
    with torch.no_grad():
        output = classifier.forward_features(images(), names)
        maps = classifier.network.bn1(classifier.network.conv1(images()))
    assert list(output.layers) == names
    torch.testing.assert_close(output.layers["bn1"], maps.mean((2, 3)))
    assert output.layers["layer1.0"].shape == (2, 64)
    assert torch.equal(output.layers["fc"], output.logits)


def test_tokens_are_pooled(built):
    with torch.no_grad():
        output = built["timm vit"].forward_features(images(), ["blocks.0"])
    assert output.layers["blocks.0"].shape == (2, 192)


def test_the_user_can_name_layers():
    network = SmallCNN(6, 3, width=4)
    classifier = Classifier(network, 6, feature_layer="stage3", cam_layer="stage2").eval()
    assert classifier.head is None
    with torch.no_grad():
        features = classifier.forward_features(images(16)).features
        expected = network.pool(network.stage2(network.pool(network.stage1(images(16)))))
    torch.testing.assert_close(features, expected.mean((2, 3)))
    assert forward_cam(classifier, images(16))[1].shape == (2, 8, 8, 8)


class Unused(SmallCNN):
    """Has a layer that is never called."""

    def __init__(self):
        super().__init__(6, 3, width=4)
        self.spare = nn.Identity()


class Pair(SmallCNN):
    """Gives its logits with something beside them."""

    def __init__(self):
        super().__init__(6, 3, width=4)

    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Classifier(SmallCNN(6), 6, feature_layer="nope"), r"'nope'; its parts are stage1"),
        (lambda: tiny_classifier().forward_features(images(8), ["stage9"]), "no layer 'stage9'"),
        (
            lambda: forward_cam(Classifier(SmallCNN(6, 3), 6, cam_layer="stage9"), images(8)),
            "no layer 'stage9'",
        ),
        (lambda: Classifier(Unused(), 6).forward_features(images(8), ["spare"]), "'spare' of the"),
        (
            lambda: forward_cam(Classifier(Unused(), 6, cam_layer="spare"), images(8)),
            "'spare' of the classifier returns no tensor",
        ),
        (
            lambda: Classifier(Unused(), 6, feature_layer="spare").forward_features(images(8)),
            "'spare' of the classifier returns no tensor",
        ),
        (lambda: Classifier(SmallCNN(6), 7), "no last layer with 7 outputs"),
        (
            lambda: Classifier(SmallCNN(6, 3), 6, size=(9, 9), resize=8),
            r"resize is 8, but classifier\.size, .* \(9, 9\)",
        ),
        (lambda: Classifier(Pair(), 6)(images(8)), "returns tuple for 2 images, expected logits"),
        (
            lambda: Classifier(SmallCNN(6, 3), 7, feature_layer="fc")(images(8)),
            r"returns \(2, 6\) for 2 images, expected logits \(2, 7\)",
        ),
        (lambda: Classifier(SmallCNN(6), 6, class_names=["a"]), "1 class names were given for 6"),
        (lambda: cam_maps(tiny_classifier(), torch.zeros(2, 3)), r"returns \(2, 3\), expected"),
    ],
)
def test_wrong_layers_and_outputs_are_refused(use, message):
    with pytest.raises(UserError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_an_error_leaves_no_hooks():
    classifier = tiny_classifier()
    with pytest.raises(UserError, match=r"fails on images of 1 × 1 with 3 channels \("):
        classifier.forward_features(torch.rand(1, 3, 1, 1), ["stage1"])
    assert not classifier.network.stage1._forward_hooks
    assert not classifier.network.fc._forward_pre_hooks


def test_a_lack_of_memory_stays_one():
    def full(_module, _inputs):
        raise torch.OutOfMemoryError("out of memory")

    classifier = tiny_classifier()
    classifier.network.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        classifier(images(8))


def test_images_are_normalized_per_channel():
    mean, std = [0.1, 0.2, 0.3], [0.5, 2.0, 4.0]
    classifier = Classifier(SmallCNN(6, 3), 6, mean=mean, std=std)
    x = images(8)
    result = classifier.normalize(x)
    for channel in range(3):
        expected = (x[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel], expected)
    assert torch.equal(tiny_classifier().normalize(x), x)


@pytest.mark.parametrize(("channels", "image_channels"), [(1, 3), (3, 1), (1, 1)])
def test_images_reach_the_networks_channels_and_size(channels, image_channels):
    classifier = Classifier(SmallCNN(6, channels), 6, channels=channels, size=(10, 12))
    assert classifier.normalize(images(17, image_channels)).shape == (2, channels, 10, 12)
    assert classifier(images(17, image_channels)).shape == (2, 6)


def test_the_center_is_cut_out_unless_images_are_shown_whole():
    classifier = Classifier(SmallCNN(6, 3), 6, size=(8, 6), resize=12)
    x = images(12)
    assert torch.equal(classifier.normalize(x), x[:, :, 2:10, 3:9])
    assert classifier.normalize(images(30)).shape == (2, 3, 8, 6)
    whole = Classifier(SmallCNN(6, 3), 6, size=(8, 6)).normalize(x)
    assert torch.equal(classifier.normalize(x, crop=False), whole)
    assert torch.equal(classifier(x, crop=False), classifier.network(whole))


def test_normalization_is_not_a_weight():
    assert all(name.startswith("network.") for name in tiny_classifier().state_dict())


def test_classes_without_names_are_numbered():
    assert tiny_classifier(3).class_names == ["0", "1", "2"]
    named = Classifier(SmallCNN(2), 2, class_names=("cat", "dog"))
    assert named.class_names == ["cat", "dog"]


def test_outputs_are_cut_and_joined():
    x = torch.arange(10.0).view(5, 2)
    whole = ClassifierOutput(x, x + 1, {"a": x + 2})
    parts = [whole.select(slice(2)), whole.select(slice(2, 5))]
    assert len(parts[0].layers["a"]) == 2
    joined = ClassifierOutput.concatenate(parts)
    assert torch.equal(joined.logits, x)
    assert torch.equal(joined.features, x + 1)
    assert torch.equal(joined.layers["a"], x + 2)
