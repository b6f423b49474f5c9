"""The parts of a detector, as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.assembly import Diffusion
from diffguard.denoisers.reference import Source
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.scores.baselines import Reference
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import DetectorSettings


@dataclass(frozen=True)
class Origin:
    """What a checkpoint stores of a detector besides its tensors and settings.

    Attributes:
        classifier: The spec that builds the classifier again; None if it is unknown.
        diffusion: The spec that builds the diffusion model again; None if it is unknown.
        source: The diffusion model to refer to instead of storing its weights, or None.
        config: The config of the run, plain values only; its `data` section is what `evaluate.py`
            evaluates on by default.
    """

    classifier: ClassifierSpec | None = None
    diffusion: DiffusionSpec | None = None
    source: Source | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


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
    origin: Origin


def uncalibrated_parts(
    classifier: Classifier,
    spec: ClassifierSpec | None,
    diffusion: Diffusion,
    settings: DetectorSettings,
    seed: int,
) -> DetectorParts:
    """The parts of a detector that is not calibrated yet."""
    data = {
        "id": {},
        "image_size": diffusion.image_size,
        "channels": diffusion.image_channels,
        "class_names": list(classifier.class_names),
    }
    return DetectorParts(
        classifier,
        diffusion.denoiser,
        settings,
        image_size=diffusion.image_size,
        image_channels=diffusion.image_channels,
        reference=None,
        calibration=None,
        noisy_classifier=None,
        seed=seed,
        origin=Origin(spec, diffusion.spec, diffusion.source, {"data": data, "trainer": {}}),
    )
