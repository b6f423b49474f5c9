"""Baselines that need ID validation images, activations or gradients, in a detector."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffguard import Detector, UserError
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.methods.classifier_trial import try_classifier
from diffguard.scores.baseline_list import HEADER, baseline_rows
from diffguard.scores.baseline_table import VALIDATION_BASELINES
from diffguard.scores.cross_fitting import cross_fitted
from diffguard.scores.logit_baselines import PosteriorDivergence, fit_klm
from diffguard.settings.detector import DetectorSettings
from tests.helpers.saved_detector import CLASSIFIER, CONFIG, DIFFUSION, build

IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(20) % 3
BASELINES = ["knn", "temperature", "klm", "odin"]


@pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier", "ignore:the diffusion")
def test_fits_on_validation_images_are_saved(tmp_path):
    detector = build(baselines=BASELINES)
    with pytest.raises(UserError, match="the baselines knn, temperature, klm, odin are not fitted"):
        detector.score(IMAGES)
    detector.calibrate([(IMAGES, LABELS)], batch_size=8, progress=False)
    assert set(detector.fits) == {"temperature", "klm"}
    detector.save(tmp_path / "d.ckpt", CLASSIFIER, DIFFUSION, CONFIG)
    again = Detector.load(tmp_path / "d.ckpt")
    for name in BASELINES:
        scores = detector.score(IMAGES, name=name, batch_size=8)
        assert torch.equal(scores, again.score(IMAGES, name=name, batch_size=8))
        same = torch.equal(scores, detector.calibration.scores[name])
        assert same == (name not in VALIDATION_BASELINES)
    logits = detector.models.classify(IMAGES, 8).logits
    expected = cross_fitted(logits, LABELS, fit_klm, PosteriorDivergence)
    torch.testing.assert_close(detector.calibration.scores["klm"], expected)
    content = torch.load(tmp_path / "d.ckpt", weights_only=True)
    content["fits"]["klm"]["posteriors"] = torch.ones(2, 3, dtype=torch.float64)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(UserError, match="the fit of klm is not one that calibration makes"):
        Detector.load(tmp_path / "damaged.ckpt")


def test_a_shuffled_loader_is_refused_if_images_are_matched_by_their_order():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), shuffle=True)
    with pytest.raises(UserError, match="baseline temperature needs the ID validation images in"):
        build(baselines=BASELINES).calibrate(loader, progress=False)


NETWORKS = {
    "torchvision/resnet18": {},
    "openood/ResNet18_32x32": {"widths": [4, 4, 8, 8, 8], "blocks": [1, 1, 1, 1]},
    "timm/resnet10t": {},
    "timm/vit_tiny_patch16_224": {"img_size": 32, "depth": 1},
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_networks_of_all_libraries_have_activations_and_gradients(arch):
    torch.manual_seed(0)
    spec = ClassifierSpec(arch, 5, NETWORKS[arch], size=[32, 32], mean=[0.5], std=[0.5])
    classifier, images = build_classifier(spec).eval(), torch.rand(2, 3, 32, 32)
    names = ["react", "dice", "odin"]
    settings = DetectorSettings(baselines=names, fused=names)
    try_classifier(classifier, images, settings)
    summed = DetectorSettings(baselines=["ash", "scale"], fused=["ash"])
    if "vit" in arch:
        with pytest.raises(UserError, match="ash, scale need activations behind a ReLU"):
            try_classifier(classifier, images, summed)
    else:
        try_classifier(classifier, images, summed)


def test_the_documentation_holds_the_table():
    page = Path(__file__).parents[2] / "docs" / "baselines.md"
    text = page.read_text(encoding="utf-8")
    for cells in (HEADER, *baseline_rows()):
        assert f"| {' | '.join(cells)} |\n" in text
