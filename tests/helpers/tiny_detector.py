"""A tiny detector of random networks, calibrated on random images."""

from __future__ import annotations

import torch

from diffguard.detector import Detector
from diffguard.scores.calibration import Calibration
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings
from diffguard.settings.sections import InversionSettings, SamplerSettings
from tests.helpers.tiny_models import denoiser_of, tiny_classifier, two_layers

CLASSES = 3


def small_settings(**changes):
    """Settings of a fast detector: 6 steps, 4 of them inverted."""
    values = {
        "sampler": SamplerSettings(steps=6),
        "inversion": InversionSettings(depth=0.67),
        "guidance": ClassifierFreeSettings(scale=2.0),
        "distances": ["logits_l1", "l2"],
        "baselines": ["msp", "knn"],
        "fused": ["knn"],
        "knn_k": 3,
    }
    return DetectorSettings(**{**values, **changes})


def build_detector(settings=None, *, calibrated=True, seed=0, noisy_classifier=None):
    """A detector of random networks on grayscale 8-pixel images, calibrated on random images."""
    settings = settings or small_settings()
    generator = torch.Generator().manual_seed(seed + 1)
    classifier = tiny_classifier(CLASSES, channels=1, seed=seed)
    denoiser = denoiser_of(two_layers(1, 8, CLASSES, seed), CLASSES)
    images = torch.rand(24, 1, 8, 8, generator=generator)
    with torch.no_grad():
        features = classifier.forward_features(images).features
    reference = Reference(features, torch.arange(24) % CLASSES)
    detector = Detector(
        classifier,
        denoiser,
        settings,
        image_size=8,
        image_channels=1,
        reference=reference,
        noisy_classifier=noisy_classifier,
    )
    if calibrated:
        stream = detector.stream(8, derive=False)
        from diffguard.methods.items import Item

        items = [Item(image, index=i) for i, image in enumerate(images)]
        rows = [image.row for image in stream.push(items) + stream.flush()]
        names = detector.score_names(derived=False)
        scores = {n: torch.tensor([r.scores[n] for r in rows], dtype=torch.float64) for n in names}
        passes = torch.tensor([float(row.network_passes) for row in rows], dtype=torch.float64)
        rule = settings.fusion_rule()
        detector.calibration = Calibration.fit(scores, rule, passes=passes)
    return detector
