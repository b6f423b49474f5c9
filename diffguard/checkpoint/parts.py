"""The parts of a detector, as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.formats.options import ModelSource
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.scores.calibration import Calibration
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings


@dataclass(frozen=True)
class Origin:
    """What a checkpoint stores of a detector besides its tensors and settings.

    Attributes:
        classifier: The spec that builds the classifier again; None if it is unknown.
        diffusion: The spec that builds the diffusion model again; None if it is unknown.
        source: The diffusion model to refer to instead of storing its weights, or None.
        config: The config of the run, plain values only; an evaluation uses the sets of its
            `data` section by default.
    """

    classifier: ClassifierSpec | None = None
    diffusion: DiffusionSpec | None = None
    source: ModelSource | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class DetectorParts:
    """The arguments of `Detector`, which documents them."""

    classifier: Classifier
    denoiser: Denoiser
    settings: DetectorSettings
    image_size: int
    image_channels: int
    reference: Reference | None = None
    calibration: Calibration | None = None
    noisy_classifier: nn.Module | None = None
    seed: int = 0
    fits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)


def data_config(image_size: int, channels: int, class_names: Sequence[str]) -> dict[str, Any]:
    """The config of a detector that was built in Python: working images and classes."""
    data = {
        "id": {},
        "image_size": image_size,
        "channels": channels,
        "class_names": list(class_names),
    }
    return {"data": data, "trainer": {}}
