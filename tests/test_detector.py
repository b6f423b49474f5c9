"""Detectors: scores, verdicts, and the settings and models that they refuse."""

import pytest
import torch
from scipy.stats import false_discovery_control

from diffguard import Detector
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.errors import UserError
from diffguard.methods.recipes import recipe_of
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.sections import (
    EarlyStopSettings,
    InversionSettings,
    SamplerSettings,
    SynthesisSettings,
)
from tests.helpers.tiny_detector import build_detector, small_settings
from tests.helpers.tiny_models import denoiser_of, tiny_classifier, two_layers

VARIANTS = {
    "classifier-free": {},
    "cam": {"guidance": ClassifierFreeSettings(scale=2.0, cam_cut=0.3)},
    "unguided reference": {"unguided": ["l2"], "distance": ["unguided/l2", "logits_l1"]},
    "guided inversion": {"inversion": InversionSettings(depth=0.67, condition="guided", scale=2.0)},
    "early stop": {"early_stop": EarlyStopSettings(thresholds={"psnr": 9.0, "ssim": 0.2})},
    "classifier": {
        "guidance": ClassifierGuidanceSettings(scale=2.0, crops=CropSettings(number=2, size=6)),
        "unguided": ["l2"],
    },
    "oracle": {"label": "oracle"},
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
        assert torch.equal(detector.score(images[order], name=score), values[order]), score
    again = build_detector(small_settings(**VARIANTS[name]))
    assert torch.equal(again.score(images), scores["fusion"])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batch_size_changes_only_the_last_bits(detector, batch_size):
    # The images of the calibration themselves: each lies where the count of its score steps.
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in detector.score_names():
        here = detector.score(images, name=name, batch_size=batch_size)
        there = detector.score(images, name=name, batch_size=64)
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("quality", ["logits_l1", "feature_cosine", "feature_l2@stage2"])
def test_distances_of_the_classifier_can_stop_inversion(images, quality):
    stop = EarlyStopSettings({quality: None})
    detector = build_detector(small_settings(early_stop=stop), calibrated=False)
    ends = []
    for threshold in (-100.0, 100.0):
        stop.thresholds[quality] = threshold
        ends.append({image.row.stop_step for image in detector.score_images(images)})
    assert ends == [{4}, {1}]
    values = detector.models.qualities[quality](images, images.flip(0))
    output = detector.classifier.forward_features(images, ["stage2"])
    if quality == "logits_l1":
        expected = -(output.logits - output.logits.flip(0)).abs().sum(1)
    elif quality == "feature_cosine":
        expected = torch.cosine_similarity(output.features, output.features.flip(0))
    else:
        layer = output.layers["stage2"]
        expected = -torch.linalg.vector_norm(layer - layer.flip(0), dim=1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_verdicts_follow_the_calibration(detector, images):
    verdicts = detector.predict(images)
    assert torch.equal(verdicts.score, detector.score(images))
    assert torch.equal(verdicts.label, detector.classifier(images).argmax(1))
    threshold = detector.calibration.threshold("fusion", 0.95)
    assert torch.equal(verdicts.is_ood, verdicts.score > threshold)
    assert ((verdicts.percentile >= 0) & (verdicts.percentile <= 100)).all()
    assert ((verdicts.probability > 0) & (verdicts.probability <= 1)).all()
    reference = detector.calibration.reference("fusion")
    for verdict, score in zip(verdicts, verdicts.score.tolist(), strict=True):
        as_high = sum(value >= score for value in reference.tolist())
        assert verdict.p_value == (1 + as_high) / (len(reference) + 1)
    assert verdicts.class_name == [str(label) for label in verdicts.label.tolist()]
    strict = detector.predict(images, accept=0.05)
    assert strict.is_ood.sum() >= verdicts.is_ood.sum()
    assert strict.is_ood.any()
    together = detector.predict(images, fdr=0.9)
    assert torch.equal(together.p_value, verdicts.p_value)
    flags = false_discovery_control(verdicts.p_value.numpy()) <= 0.9
    assert together.is_ood.tolist() == flags.tolist()
    with pytest.raises(UserError, match="either accept or fdr"):
        detector.predict(images, accept=0.9, fdr=0.1)
    with pytest.raises(UserError, match="takes at least 99 ID validation images"):
        detector.predict(images, accept=0.99)


def test_an_oracle_gives_no_verdicts(images):
    oracle = build_detector(small_settings(label="oracle"))
    assert torch.isfinite(oracle.score(images)).all()
    with pytest.raises(UserError, match="oracle, a mode for studies"):
        oracle.predict(images)


def test_images_of_any_size_and_channels_are_accepted(detector):
    assert detector.score(torch.rand(2, 3, 20, 31)).shape == (2,)
    assert detector.score(torch.rand(0, 1, 8, 8)).shape == (0,)


GRAY = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(8, 8), r"got shape \(8, 8\): write image\[None\]"),
        (GRAY.expand(2, 3, 8, 8).permute(0, 2, 3, 1), r"x.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 4, 8, 8), "C = 1 or 3"),
        (torch.zeros(1, 1, 0, 5), "at least 1 pixel high and wide"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int16), "scale of torch.int16 images is unknown"),
        (torch.full((2, 1, 8, 8), 2.0), r"must lie in \[0, 1\], got values in \[2, 2\]"),
        (GRAY * 1.01 + 0.01, r"got values in \[0\.01\d+, 1\.01\d+\]"),
        (-GRAY, r"must lie in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), r"got values in \[nan, nan\]"),
        (torch.full((2, 1, 8, 8), float("inf")), r"got values in \[inf, inf\]"),
        (GRAY.numpy(), r"may be first or last|move the channels with x.transpose\(0, 2, 3, 1\)"),
        ("absent.png", "image absent.png does not exist"),
        ([GRAY[0], "absent.png"], "image 1 of the list: image absent.png does not exist"),
        (3, "images of type int are not supported"),
    ],
)
def test_other_images_are_refused(detector, images, message):
    for judge in (detector.score, detector.predict):
        with pytest.raises(UserError, match=message) as caught:
            judge(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True])
def test_a_batch_size_below_one_is_refused(detector, size):
    with pytest.raises(UserError, match="batch_size must be a whole number of at least 1"):
        detector.predict(GRAY, batch_size=size)


def test_classifier_outputs_are_concatenated_in_order(monkeypatch):
    detector, x = build_detector(), torch.arange(14.0).view(7, 2)

    def outputs(rows, _layers):
        return ClassifierOutput(rows + 1, rows + 2, {"a": rows + 3, "b": -rows})

    monkeypatch.setattr(detector.classifier, "forward_features", outputs)
    joined = detector.models.classify(x, 4, ["a", "b"])
    assert torch.equal(joined.logits, x + 1)
    assert torch.equal(joined.features, x + 2)
    assert list(joined.layers) == ["a", "b"]
    assert torch.equal(joined.layers["a"], x + 3)
    assert torch.equal(joined.layers["b"], -x)


def test_error_of_a_score_that_is_not_finite_names_the_image(images):
    detector = build_detector()
    with torch.no_grad():
        detector.denoiser.network.weights["conv2_w"].fill_(float("nan"))
    with pytest.raises(UserError, match=r"of image images\[\d+\] is nan"):
        detector.score(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": ["logits_l1", "ms_ssim"]}, "ms_ssim needs images of at least 176 px"),
        ({"unguided": ["ms_ssim"]}, "ms_ssim needs images of at least 176 px"),
        ({"early_stop": EarlyStopSettings({"ms_ssim": 0.5})}, "ms_ssim needs images of at least"),
        ({"distances": ["logits_l1", "feature_l2@nope"]}, "classifier has no layer 'nope'"),
        ({"early_stop": EarlyStopSettings({"feature_l2@nope": 0.5})}, "has no layer 'nope'"),
        (
            {"sampler": SamplerSettings(steps=300, spacing="stride")},
            "detector.sampler: no integer stride gives",
        ),
        ({"synthesis": SynthesisSettings(skip=6)}, "synthesis.skip must be 0 to 5"),
        ({"synthesis": SynthesisSettings(skip=-1)}, "synthesis.skip must be 0 to 5"),
        ({"guidance": ClassifierGuidanceSettings(crops=CropSettings(2))}, "crops.size is needed"),
        (
            {"guidance": ClassifierGuidanceSettings(model="noisy", blend=False)},
            "model noisy needs a classifier of noisy images",
        ),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build_detector(small_settings(**changes), calibrated=False)


@pytest.mark.parametrize("depth", [0.1, 0.68, 2.0])
def test_a_mean_depth_that_no_image_reaches_is_refused(depth):
    stop = EarlyStopSettings({"psnr": None}, mean_depth=depth)
    with pytest.raises(UserError, match=r"between 0\.166667, one step, and 0\.666667, that of"):
        build_detector(small_settings(early_stop=stop), calibrated=False)


def test_shifted_timesteps_may_be_more_than_steps_and_can_all_be_skipped():
    sampler = SamplerSettings(steps=30, spacing="shifted")
    settings = small_settings(sampler=sampler, synthesis=SynthesisSettings(skip=30))
    detector = build_detector(settings, calibrated=False)
    assert recipe_of(detector.models).skip == len(detector.models.plan) - 1


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
