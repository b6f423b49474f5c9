"""Features and CAM layers of a spread of families, found from what the networks compute."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from diffguard.classifiers.cam import cam_maps, forward_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.layers import as_linear, find_cam_layer, find_head, to_maps
from diffguard.errors import UserError

K = 7

# Name -> (side, head, CAM layer); built on the meta device, where only shapes are computed.
FAMILIES = {
    "torchvision/alexnet": (224, "classifier.6", "features"),
    "torchvision/convnext_tiny": (224, "classifier.2", "features"),
    "torchvision/densenet121": (224, "classifier", "features"),
    "torchvision/efficientnet_b0": (224, "classifier.1", "features"),
    "torchvision/googlenet": (224, "fc", "inception5b"),
    "torchvision/inception_v3": (299, "fc", "Mixed_7c"),
    "torchvision/maxvit_t": (224, "classifier.5", "blocks.3"),
    "torchvision/mnasnet0_5": (224, "classifier.1", "layers"),
    "torchvision/mobilenet_v2": (224, "classifier.1", "features"),
    "torchvision/mobilenet_v3_small": (224, "classifier.3", "features"),
    "torchvision/resnet50": (224, "fc", "layer4"),
    "torchvision/shufflenet_v2_x0_5": (224, "fc", "conv5"),
    "torchvision/squeezenet1_1": (224, "classifier.1", "classifier.2"),
    "torchvision/swin_t": (224, "head", "permute"),
    "torchvision/swin_v2_t": (256, "head", "permute"),
    "torchvision/vgg11": (224, "classifier.6", "features"),
    "torchvision/vit_b_16": (224, "heads.head", "encoder.layers.encoder_layer_11.ln_1"),
    "timm/beit_base_patch16_224": (224, "head", "blocks.11.norm1"),
    "timm/caformer_s18": (224, "head.fc.fc2", "stages"),
    "timm/cait_xxs24_224": (224, "head", "blocks_token_only.1.norm1"),
    "timm/convnext_atto": (224, "head.fc", "norm_pre"),
    "timm/darknet17": (224, "head.fc", "stages"),
    "timm/davit_tiny": (224, "head.fc", "norm_pre"),
    "timm/densenet121": (224, "classifier", "features"),
    "timm/deit_tiny_patch16_224": (224, "head", "blocks.11.norm1"),
    "timm/efficientnet_b0": (224, "classifier", "bn2"),
    "timm/mixer_s16_224": (224, "head", "blocks.7.norm1"),
    "timm/mobilenetv3_small_050": (224, "classifier", "blocks"),
    "timm/regnety_002": (224, "head.fc", "final_conv"),
    "timm/resnet18": (224, "fc", "layer4"),
    "timm/resnetv2_50": (224, "head.fc", "norm"),
    "timm/swin_tiny_patch4_window7_224": (224, "head.fc", "norm"),
    "timm/tf_efficientnet_lite0": (224, "classifier", "bn2"),
    "timm/vgg11": (224, "head.fc", "features"),
    "timm/vit_tiny_patch16_224": (224, "head", "blocks.11.norm1"),
}


def build(name):
    library, _, plain = name.partition("/")
    if library == "timm":
        return timm.create_model(plain, num_classes=K)
    options = {"init_weights": False} if plain in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(plain, num_classes=K, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_head_and_cam_layer_are_found(name):
    side, head, cam_layer = FAMILIES[name]
    with torch.device("meta"):
        classifier = Classifier(build(name), K).eval()
    images = torch.zeros(1, 3, side, side, device="meta")
    assert classifier.feature_layer == head
    _, activation = forward_cam(classifier, images)
    assert classifier.cam_layer == cam_layer
    maps = cam_maps(classifier, activation)
    assert maps.shape[2] == maps.shape[3] > 4
    features = classifier.forward_features(images.detach()).features
    assert features.shape == (1, classifier.head.in_features)


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(2, 2),
        num_classes=K,
    )


def vit(**options):
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **sizes | options, num_classes=K)


PLACED = {
    "more columns than rows": lambda: vit(img_size=(48, 160)),
    "more rows than columns": lambda: vit(img_size=(160, 48), class_token=False, global_pool="avg"),
    "channels last": swin,
    "class token": vit,
    "registers": lambda: vit(reg_tokens=4),
    "many registers": lambda: vit(reg_tokens=17),
    "torchvision vit": lambda: torchvision.models.VisionTransformer(64, 8, 2, 2, 24, 48),
    "torchvision swin": lambda: torchvision.models.SwinTransformer(
        [4, 4], 24, [1, 1], [2, 2], [4, 4]
    ),
    "convolutions": lambda: timm.create_model("test_resnet", num_classes=K),
}


@pytest.mark.parametrize("name", PLACED)
def test_maps_keep_the_positions_of_the_image(name):
    torch.manual_seed(0)
    network = PLACED[name]()
    classifier = Classifier(network, 1000 if name.startswith("torchvision") else K).eval()
    height, width = getattr(getattr(network, "patch_embed", None), "img_size", None) or (64, 64)
    gray = torch.full((1, 3, height, width), 0.5) + 0.01 * torch.randn(1, 3, height, width)
    patched = gray.clone()
    patched[:, :, 8:24, -24:-8] = torch.rand(1, 3, 16, 16)
    activations = [forward_cam(classifier, images)[1] for images in (gray, patched)]
    before, after = (cam_maps(classifier, a).detach() for a in activations)
    change = (after - before).norm(dim=1)[0]
    row, column = change.shape[0] // 2, change.shape[1] // 2
    quarters = [change[:row, :column], change[:row, column:], change[row:]]
    means = [float(quarter.mean()) for quarter in quarters]
    assert means[1] > 1.5 * max(means[0], means[2])


def test_a_convolution_can_be_the_head():
    torch.manual_seed(0)
    head = nn.Conv2d(6, K, 1)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), head, nn.Flatten())
    classifier = Classifier(network, K).eval()
    assert classifier.feature_layer == "2"
    with torch.no_grad():
        output = classifier.forward_features(torch.rand(2, 3, 8, 8))
        torch.testing.assert_close(classifier.head(output.features), output.logits)
    assert as_linear(nn.Conv2d(6, K, 3)) is None
    assert as_linear(nn.Identity()) is None


def test_a_network_without_a_head_is_refused():
    with pytest.raises(
        UserError, match=r"no last layer with 7 outputs .* in feature_layer \(classifier\.feature"
    ):
        find_head(nn.Sequential(nn.Conv2d(3, K, 3), nn.Linear(4, 5)), K)


def test_a_network_without_maps_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, K))
    with pytest.raises(UserError, match=r"name one in cam_layer \(classifier\.cam_layer of a con"):
        find_cam_layer(network, {"0": (1, 12), "1": (1, K)})


def test_layers_without_positions_give_no_maps():
    assert to_maps(torch.zeros(2, 5)) is None
    assert to_maps(torch.zeros(2, 12, 3), prefix_tokens=1) is None
    assert to_maps(torch.zeros(2, 10, 3)).shape == (2, 3, 3, 3)
    assert to_maps(torch.zeros(2, 13, 3), prefix_tokens=9).shape == (2, 3, 2, 2)
