"""The examples in docstrings run and give the output shown."""

import doctest
import importlib

import pytest
import torch

from tests.helpers.tiny_detector import small_settings
from tests.helpers.tiny_models import denoiser_of, tiny_classifier, two_layers

EXAMPLES = {
    "diffguard.classifiers.transforms": ["preprocessing_of"],
    "diffguard.detector": ["Detector"],
    "diffguard.diffusion.ddim": ["ddim_step"],
    "diffguard.diffusion.guidance": ["classifier_free"],
    "diffguard.diffusion.plan": ["SamplingPlan", "respace"],
    "diffguard.diffusion.schedule": ["NoiseSchedule", "predict_clean"],
    "diffguard.inputs.working": ["working_images"],
    "diffguard.methods.verdicts": ["Verdict", "Verdicts"],
    "diffguard.report.metrics": ["auroc", "compute_metrics"],
    "diffguard.report.selective": ["aurc"],
    "diffguard.report.set_metrics": ["SetMetrics"],
    "diffguard.report.torch_metric": ["OODMetrics"],
    "diffguard.scores.build": ["build_distance"],
    "diffguard.scores.calibration": ["Calibration"],
    "diffguard.scores.cascade": ["cascade"],
    "diffguard.scores.conformal": ["threshold"],
    "diffguard.scores.distance_names": ["find_distance"],
    "diffguard.scores.formulas": ["psnr", "ssim"],
    "diffguard.scores.reconstruction": ["ReconstructionQuality"],
}


@pytest.fixture
def names():
    """The names that examples use without an import."""
    classifier = tiny_classifier(3, channels=1)
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {
        "torch": torch,
        "classifier": classifier,
        "denoiser": denoiser_of(two_layers(1, 8, 3), 3),
        "settings": small_settings(),
        "images": images,
        "labels": classifier(images).argmax(1),
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_give_their_output(name, names):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_public_names_have_an_example(name):
    module = importlib.import_module(name)
    missing = [item for item in EXAMPLES[name] if ">>>" not in getattr(module, item).__doc__]
    assert not missing
