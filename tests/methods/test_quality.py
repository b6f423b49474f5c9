import pytest
import torch

from diffguard.errors import UserError
from diffguard.methods.quality import reconstruction_quality
from diffguard.scores.reconstruction import ReconstructionQuality, resemblance
from diffguard.settings.guidance import ClassifierFreeSettings
from diffguard.settings.sections import InversionSettings, SamplerSettings
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(2))
LABELS = torch.zeros(30, dtype=torch.int64)
POOR = ReconstructionQuality(64, label_kept=0.4, resemblance=0.95)
pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def batches(images):
    return [{"image": images, "label": LABELS[: len(images)], "error": [""] * len(images)}]


def test_resemblance_counts_the_pairs_in_which_the_own_image_is_nearer():
    images = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1)
    assert resemblance(images, images) == 1.0
    assert resemblance(images, torch.full_like(images, 1.0)) == 0.5
    # 0 is nearer to its image than to the others, and 0.1 is nearer to 0 and 1 than to 2.
    assert resemblance(images, torch.tensor([0.0, 1.0, 0.1]).reshape(3, 1, 1, 1)) == 4 / 6


def test_exact_reconstructions_keep_label_and_image_and_random_ones_do_not():
    exact = small_settings(
        sampler=SamplerSettings(steps=6, solver="bdia"),
        guidance=ClassifierFreeSettings(scale=1.0),
        inversion=InversionSettings(depth=0.67, condition="label"),
    )
    quality = reconstruction_quality(build_detector(exact).models, batches(IMAGES), 8)
    assert quality.images == 30
    assert quality.label_kept > 0.95
    assert quality.resemblance > 0.99
    guided = small_settings(guidance=ClassifierFreeSettings(scale=2000.0))
    quality = reconstruction_quality(build_detector(guided).models, batches(IMAGES), 8)
    assert quality.resemblance < 0.9
    assert not quality.is_sound


def test_a_poor_diffusion_model_is_reported_and_does_not_decide(tmp_path):
    settings = small_settings(decision="auto", guidance=ClassifierFreeSettings(scale=2000.0))
    detector = build_detector(settings)
    with pytest.raises(UserError, match=r"auto needs to know .* calibrate it again"):
        detector.predict(IMAGES)
    with pytest.warns(UserWarning, match=r"reconstructs ID images poorly: of 30 .* by fusion_base"):
        detector.calibrate([(IMAGES, LABELS)], progress=False)
    assert detector.decision == "fusion_baselines"
    scores = detector.score(IMAGES, name="fusion_baselines")
    assert torch.equal(detector.predict(IMAGES).score, scores)
    detector.calibration.quality = ReconstructionQuality(64, 0.9, 0.95)
    assert detector.decision == "fusion"


def test_auto_needs_baselines_to_fall_back_to():
    with pytest.raises(UserError, match="decision is auto, but nothing is fused"):
        small_settings(decision="auto", fused=[])
