"""Networks built from specs, and which classes may be built at all."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.errors import UserError
from diffguard.storage.trust import import_class
from tests.helpers.stranger import STRANGER


def test_a_small_cnn_takes_everything_from_its_spec():
    spec = ClassifierSpec(
        "small_cnn",
        3,
        {"width": 4},
        channels=1,
        size=[10, 12],
        mean=[0.5],
        std=[0.25],
        feature_layer="stage3",
        cam_layer="stage1",
        class_names=["a", "b", "c"],
    )
    classifier = build_classifier(spec)
    assert isinstance(classifier.network, SmallCNN)
    assert classifier.network.fc.weight.shape == (3, 16)
    assert (classifier.channels, classifier.size) == (1, (10, 12))
    assert (classifier.feature_layer, classifier.cam_layer) == ("stage3", "stage1")
    assert classifier.class_names == ["a", "b", "c"]
    assert classifier.normalize(torch.ones(1, 1, 4, 4)).unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("arch", "kwargs", "mean"),
    [
        ("small_cnn", {"width": 4}, [0.0]),
        ("torchvision/shufflenet_v2_x0_5", {}, [0.485, 0.456, 0.406]),
        ("timm/test_resnet", {}, [0.5, 0.5, 0.5]),
        ("timm/resnet10t", {}, [0.485, 0.456, 0.406]),
        ("openood/ResNet18_32x32", {"widths": [3] * 5}, [0.0]),
        ("diffguard.classifiers.small_cnn.SmallCNN", {"in_channels": 3, "width": 4}, [0.0]),
    ],
)
def test_every_kind_of_classifier_is_built(arch, kwargs, mean):
    classifier = build_classifier(ClassifierSpec(arch, 4, kwargs)).eval()
    assert isinstance(classifier, Classifier)
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    torch.testing.assert_close(classifier.mean.flatten().tolist(), mean)
    custom = build_classifier(ClassifierSpec(arch, 4, kwargs, mean=[0.1], std=[0.2]))
    assert custom.mean.numel() == 1


def test_timm_networks_take_gray_images():
    spec = ClassifierSpec("timm/test_resnet", 4, channels=1)
    assert build_classifier(spec).eval()(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_a_user_class_needs_consent():
    spec = ClassifierSpec(STRANGER, 4, {"width": 6})
    with pytest.raises(UserError, match=f"--trusted {STRANGER}"):
        build_classifier(spec)
    network = build_classifier(spec, trusted=[STRANGER]).network
    assert network.stem.out_channels == 6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClassifierSpec("small_cnn", 3, {"depth": 4}), "small_cnn cannot be built: .*depth"),
        (ClassifierSpec("torchvision/no_such", 3), "no_such cannot be built"),
        (ClassifierSpec("torchvision/resnet18", 3, channels=1), "set classifier.channels to 3"),
        (ClassifierSpec("timm/no_such", 3), "no_such"),
        (ClassifierSpec("no_such_package.Net", 3), "if you trust it"),
        (ClassifierSpec("small_cnn", 3, mean=[0.5, 0.5]), "mean has 2 values for 3 channels"),
        (ClassifierSpec("small_cnn", 3, std=[1.0] * 4), "std has 4 values for 3 channels"),
        (ClassifierSpec("small_cnn", 3, size=[32]), r"must be \[height, width\], got \[32\]"),
    ],
)
def test_impossible_classifiers_are_refused(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        build_classifier(spec)
    assert "\n" not in str(caught.value)


class Fixed(nn.Module):
    """A network that takes no number of classes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def test_a_user_class_may_fix_its_number_of_classes():
    path = f"{Fixed.__module__}.Fixed"
    assert build_classifier(ClassifierSpec(path, 4), trusted=[path])(
        torch.rand(2, 3, 8, 8)
    ).shape == (2, 4)
    with pytest.raises(UserError, match="no last layer with 5 outputs"):
        build_classifier(ClassifierSpec(path, 5), trusted=[path])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.system", "is named by a checkpoint"),
        ("diffguardian.Net", "is named by a checkpoint"),
        ("torch.load", "is named by a checkpoint"),
        ("torch.nn.functional.relu", "is not a torch.nn.Module class"),
        ("torch.nn.NoSuchLayer", "cannot be imported"),
        ("timm.no_such.Net", "cannot be imported"),
        ("diffguard.", "cannot be imported"),
    ],
)
def test_another_number_of_classes_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        import_class(path)


@pytest.mark.parametrize(
    "spec",
    [
        ClassifierSpec("small_cnn", 3, {"width": 4}, size=[8, 8], class_names=["a", "b", "c"]),
    ],
)
def test_specs_are_plain_data(spec):
    assert type(spec)(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize(("arch", "key"), [("small_cnn", "width"), ("whitened_cnn", "widths")])
def test_networks_without_weights_are_refused_without_warnings(arch, key, recwarn):
    value = 0 if key == "width" else [0, 0, 0]
    with pytest.raises(UserError, match="with an empty weight: check its sizes"):
        build_classifier(ClassifierSpec(arch, 3, {key: value}))
    assert not recwarn.list
