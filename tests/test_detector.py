import pytest
import torch
from conftest import build_detector, small_settings
from tiny_models import denoiser_of, tiny_classifier, two_layers

from diffguard import Detector
from diffguard.errors import UserError
from diffguard.settings import (
    CropSettings,
    EarlyStopSettings,
    GuidanceSettings,
    InversionSettings,
)

VARIANTS = {
    "classifier-free": {},
    "cam": {"guidance": GuidanceSettings(scale=2.0, cam_cut=0.3)},
    "unguided reference": {"unguided": ["l2"], "distance": ["unguided/l2", "logits_l1"]},
    "guided inversion": {"inversion": InversionSettings(depth=0.67, condition="guided", scale=2.0)},
    "early stop": {"early_stop": EarlyStopSettings(thresholds={"psnr": 9.0, "ssim": 0.2})},
    "classifier": {
        "guidance": GuidanceSettings(
            kind="classifier", scale=2.0, crops=CropSettings(number=2, size=6)
        ),
        "unguided": ["l2"],
    },
    "oracle": {"guidance": GuidanceSettings(scale=2.0, label="oracle")},
    "layer": {"distances": ["logits_l1", "feature_cosine@stage2"]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_score_depends_on_the_image_alone(name, images):
    detector = build_detector(small_settings(**VARIANTS[name]))
    scores = {n: detector.score(images, name=n) for n in detector.score_names()}
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    for score, values in scores.items():
        assert values.dtype == torch.float64
        assert torch.isfinite(values).all()
        if name not in ("classifier", "oracle"):  # where the key of an image is its place
            assert torch.equal(detector.score(images[order], name=score), values[order]), score
    again = build_detector(small_settings(**VARIANTS[name]))
    assert torch.equal(again.score(images), scores["fusion"])


def test_another_batch_size_changes_the_last_bits_at_most(detector, images):
    small, large = detector.score(images, batch_size=8), detector.score(images, batch_size=64)
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-5)


def test_verdicts_follow_from_the_calibration(detector, images):
    verdicts = detector.predict(images)
    assert torch.equal(verdicts.score, detector.score(images))
    assert torch.equal(verdicts.label, detector.classifier(images).argmax(1))
    threshold = detector.calibration.threshold("fusion", 0.95)
    assert torch.equal(verdicts.is_ood, verdicts.score > threshold)
    assert ((verdicts.percentile >= 0) & (verdicts.percentile <= 100)).all()
    assert ((verdicts.probability > 0) & (verdicts.probability <= 1)).all()
    strict = detector.predict(images, accept=0.05)
    assert strict.is_ood.sum() >= verdicts.is_ood.sum()
    assert strict.is_ood.any()


def test_images_of_any_size_and_channels_are_taken(detector):
    assert detector.score(torch.rand(2, 3, 20, 31)).shape == (2,)
    assert detector.score(torch.rand(0, 1, 8, 8)).shape == (0,)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(8, 8), "must be a tensor"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "divide 8-bit by 255"),
        (torch.full((2, 1, 8, 8), 2.0), r"must lie in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), r"must lie in \[0, 1\]"),
    ],
)
def test_other_images_are_refused(detector, images, said):
    with pytest.raises(UserError, match=said):
        detector.score(images)


def test_a_score_that_is_not_finite_names_the_image(images):
    detector = build_detector()
    with torch.no_grad():
        detector.denoiser.network.weights["conv2_w"].fill_(float("nan"))
    with pytest.raises(UserError, match=r"of image images\[\d+\] is nan"):
        detector.score(images)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distance": ["dists"]}, "which is not computed"),
        ({"fused": ["vim"]}, "which detector.baselines lacks"),
        ({"inversion": InversionSettings(depth=0.0)}, r"must lie in \(0, 1\]"),
        ({"distances": ["logits_l1", "nope"]}, "unknown distance"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        build_detector(small_settings(**changes), calibrated=False)


def test_models_that_do_not_fit_are_refused():
    classifier = tiny_classifier(3, channels=1)
    sizes = {"image_size": 8, "image_channels": 1}
    plain = small_settings(baselines=["msp"], fused=[], decision="diffguard")
    with pytest.raises(UserError, match="null class"):
        Detector(classifier, denoiser_of(two_layers(1, 8)), plain, **sizes)
    with pytest.raises(UserError, match="3 classes but the diffusion model 4"):
        Detector(classifier, denoiser_of(two_layers(1, 8, 4), 4), plain, **sizes)
    with pytest.raises(UserError, match="not calibrated"):
        build_detector(calibrated=False).predict(torch.rand(1, 1, 8, 8))
