"""Transforms of libraries become the classifier's preprocessing, or are refused."""

import pytest
import timm.data
import torch
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.preprocessing import Preprocessing
from diffguard.classifiers.transforms import preprocessing_of
from diffguard.errors import UserError

BICUBIC = v2.InterpolationMode.BICUBIC
NORMALIZE = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
UNDERSTOOD = {
    "torchvision's preset": ImageClassification(crop_size=16, resize_size=20),
    "bicubic preset": ImageClassification(crop_size=20, resize_size=20, interpolation=BICUBIC),
    "composition": v1.Compose([v1.Resize(20), v1.CenterCrop(16), v1.Normalize(*NORMALIZE)]),
    "second version": v2.Compose(
        [
            v2.ToImage(),
            v2.Resize([20], interpolation=BICUBIC, antialias=True),
            v2.CenterCrop(16),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*NORMALIZE),
        ]
    ),
    "rectangle": v2.Compose([v2.Resize((16, 20)), v2.Normalize(*NORMALIZE)]),
    "normalization": v2.Normalize(*NORMALIZE),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_classifier_sees_what_the_transform_gives(name):
    image = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    preprocessing = preprocessing_of(UNDERSTOOD[name])
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    classifier = Classifier(network, 2, **vars(preprocessing))
    expected = UNDERSTOOD[name](image)
    torch.testing.assert_close(classifier.normalize(image[None])[0], expected, rtol=0, atol=1e-5)


def test_timm_transforms_are_understood():
    transform = timm.data.create_transform((3, 16, 16), crop_pct=0.8, interpolation="bicubic")
    mean, std = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    preprocessing = preprocessing_of(transform)
    assert (preprocessing.size, preprocessing.resize) == ((16, 16), 20)
    assert preprocessing.interpolation == "bicubic"
    assert preprocessing.mean == pytest.approx(mean)
    assert preprocessing.std == pytest.approx(std)


def test_nothing_leaves_images_as_they_are():
    assert preprocessing_of(None) == Preprocessing()
    assert preprocessing_of(v1.ToTensor()) == Preprocessing()


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (lambda x: x, "preprocess has function, which is not supported"),
        (v1.Compose([v1.Resize(20), v1.RandomHorizontalFlip()]), "has RandomHorizontalFlip"),
        (v1.Compose([v1.CenterCrop(16), v1.Resize(20)]), "has Resize, which is not supported"),
        (v1.CenterCrop(16), "CenterCrop without Resize"),
        (v1.Resize(20, antialias=False), "without antialias"),
        (v1.Resize(20, max_size=30), "Resize with max_size"),
        (v1.Resize(20, interpolation=v1.InterpolationMode.NEAREST), "resizes by nearest"),
        (v2.ToDtype(torch.float32), "ToDtype, which does not scale"),
        (v2.ToDtype(torch.float64, scale=True), "ToDtype, which does not scale"),
        (v1.Compose([v1.Normalize(*NORMALIZE), v1.Resize(20)]), "Resize after Normalize"),
        (v1.Compose([v1.Resize((20, 30)), v1.CenterCrop(16)]), "center out of a rectangle"),
        (5, "preprocess has int"),
    ],
)
def test_other_transforms_are_refused_and_the_arguments_named(preprocess, message):
    with pytest.raises(UserError, match=message) as caught:
        preprocessing_of(preprocess)
    assert "give size, resize, interpolation, mean and std instead" in str(caught.value)
    assert "\n" not in str(caught.value)
