"""The parts of a detector, as a checkpoint holds them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from diffguard.classifiers.classifier import Classifier
from diffguard.diffusion.denoiser import Denoiser
from diffguard.scores.baselines import Reference
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import DetectorSettings


@dataclass
class DetectorParts:
    """The arguments of `Detector`, which documents them."""

    classifier: Classifier
    denoiser: Denoiser
    settings: DetectorSettings
    image_size: int
    image_channels: int
    reference: Reference | None
    calibration: Calibration | None
    noisy_classifier: nn.Module | None
    seed: int
