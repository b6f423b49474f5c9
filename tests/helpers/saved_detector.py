"""A tiny detector and the specs that a checkpoint needs to build it again."""

from __future__ import annotations

import torch

from diffguard import Detector
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.build import build_denoiser
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.scores.calibration import Calibration
from diffguard.scores.reference import Reference
from tests.helpers.stranger import STRANGER
from tests.helpers.tiny_detector import CLASSES, small_settings
from tests.helpers.tiny_models import UNET

CLASSIFIER = ClassifierSpec("small_cnn", CLASSES, {"width": 4}, channels=1, mean=[0.4], std=[0.3])
DIFFUSION = DiffusionSpec(
    "UNet2DModel", UNET, {"beta_schedule": "linear"}, 8, 1, CLASSES, CLASSES, antialias=False
)
CONFIG = {"data": {"name": "mine", "limit": None}, "seed": 3}


def build(spec=CLASSIFIER, **changes):
    """A calibrated detector with random weights, built from its specs."""
    torch.manual_seed(0)
    settings = small_settings(**changes)
    width = 4 if spec.arch == STRANGER else 16
    reference = Reference(torch.randn(12, width), torch.arange(12) % 3, share=0.5)
    detector = Detector(
        build_classifier(spec, trusted=[STRANGER]),
        build_denoiser(DIFFUSION),
        settings,
        image_size=8,
        image_channels=1,
        reference=reference,
        noisy_classifier=TimedCNN(CLASSES, 1, width=4),
        seed=3,
    )
    scores = {n: torch.rand(30, dtype=torch.float64) for n in detector.score_names(derived=False)}
    detector.calibration = Calibration.fit(scores, settings.fusion_rule())
    return detector
