"""Drift of scored images, from the calibration to the comparison."""

import pytest
import torch

from diffguard.errors import UserError
from diffguard.methods.drift import drift_of
from tests.helpers.tiny_detector import CLASSES, build_detector

pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def random_images(count, seed):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches(images):
    for part in images.split(16):
        yield {"image": part, "label": torch.full((len(part),), -1), "error": [""] * len(part)}


def test_a_calibrated_detector_tells_other_images_from_the_validation_images():
    detector, images = build_detector(), random_images(40, 100)
    with pytest.raises(UserError, match="holds no features of its ID validation images"):
        drift_of(detector, [0.0], batches(images), 8)
    detector.calibrate([(images, torch.arange(40) % CLASSES)], batch_size=8)
    features = detector.calibration.features
    expected = detector.classifier.forward_features(images).features
    torch.testing.assert_close(features, expected)
    alike, others = random_images(30, 3), random_images(30, 2) * 0.3
    drift = drift_of(detector, detector.score(alike), batches(alike), 8)
    assert not drift.is_found
    assert detector.drift(list(alike), batch_size=8) == drift
    assert detector.drift(others).features_p == 0.001
    with pytest.raises(UserError, match="there is no image to compare"):
        detector.drift([])
