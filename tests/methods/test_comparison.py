"""Comparison of the object alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.layer_masking import layer_masked
from diffguard.errors import UserError
from diffguard.methods.classifier_trial import try_classifier
from diffguard.settings.sections import ComparisonSettings
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("masking", ["black", "layers"])
def test_the_classifier_sees_the_object_of_the_image_in_both(masking):
    settings = small_settings(
        distances=["logits_l1", "feature_l2", "l2"],
        comparison=ComparisonSettings(masking, 0.5),
    )
    detector = build_detector(settings, calibrated=False, seed=2)
    whole = build_detector(
        replace(settings, comparison=ComparisonSettings()), calibrated=False, seed=2
    )
    classifier = detector.classifier
    results, masked = detector.score_images(IMAGES, batch_size=8), 0
    for result, other in zip(results, whole.score_images(IMAGES, batch_size=8), strict=True):
        images = torch.stack([result.item.image, result.reconstruction.guided])
        cam = grad_cam(classifier, images[:1], torch.tensor([result.row.prediction]))
        masks = cam_mask(scale_cam(cam), 0.5).expand(2, 8, 8)
        if not masks.any():
            # Without an object, the whole image counts.
            assert result.row.scores == other.row.scores
            continue
        masked += 1
        with torch.no_grad():
            if masking == "layers":
                output = layer_masked(classifier, images, masks)
            else:
                output = classifier.forward_features(images * masks[:, None])
        expected = {
            "diffguard/logits_l1": (output.logits[0] - output.logits[1]).abs().sum(),
            "diffguard/feature_l2": (output.features[0] - output.features[1]).norm(),
        }
        for name, value in expected.items():
            assert result.row.scores[name] == pytest.approx(float(value), rel=1e-4)
            assert result.row.scores[name] != pytest.approx(other.row.scores[name], rel=1e-3)
        for name in ("diffguard/l2", "msp"):
            assert result.row.scores[name] == other.row.scores[name]
    assert masked >= 2


def test_settings_out_of_range_or_without_effect_are_refused():
    with pytest.raises(UserError, match="masking must be none or black or layers, got 'gray'"):
        ComparisonSettings("gray")
    with pytest.raises(UserError, match=r"cam_cut must lie in \[-1, 1\], got 1.5"):
        ComparisonSettings("black", 1.5)
    with pytest.raises(UserError, match=r"cam_cut 0.4 has no effect here: it belongs to .* layers"):
        ComparisonSettings(cam_cut=0.4)
    with pytest.raises(UserError, match="masking black has no effect here: it belongs to distan"):
        small_settings(distances=["l2"], distance=["l2"], comparison=ComparisonSettings("black"))


def test_a_network_that_layer_masking_cannot_follow_is_refused_before_scoring():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    classifier = Classifier(network, 3, channels=1).eval()
    settings = small_settings(
        comparison=ComparisonSettings("layers"), baselines=[], fused=[], decision="diffguard"
    )
    with pytest.raises(UserError, match="cannot follow hidden positions through group_norm"):
        try_classifier(classifier, IMAGES, settings)
    try_classifier(classifier, IMAGES, replace(settings, comparison=ComparisonSettings("black")))
