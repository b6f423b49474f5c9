"""The settings of a detector: what the config's `detector` section holds.

Plain data classes, so that they can be typed on the command line, stored in a checkpoint and
compared. Defaults are the sound choices; `configs/paper_*.yaml` hold the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from diffguard.engine.acceleration import CompileMode
from diffguard.errors import UserError
from diffguard.scores.calibration import DIFFGUARD, FUSION, FUSION_BASELINES, FusionRule
from diffguard.settings.sections import (
    EarlyStopSettings,
    GuidanceSettings,
    InversionSettings,
    SamplerSettings,
)

Combine = Literal["mean", "tandem"]

BASELINES = ("msp", "mls", "energy", "knn", "vim")


@dataclass
class DetectorSettings:
    """Everything that defines a score, apart from the networks.

    Attributes:
        sampler: Timesteps and noise levels.
        inversion: Depth and condition.
        early_stop: Adaptive early stop.
        guidance: Classifier-free or classifier guidance.
        distances: Distances that are computed between each image and its guided reconstruction.
        unguided: Distances that are computed between the unguided and the guided reconstruction
            (which costs the unguided passes).
        distance: What `diffguard` stands for: a name in `distances`, or `unguided/NAME`, or several
            of them, each then normalized on ID validation images.
        combine: How several are combined: `mean`, or in `tandem`: the first decides clear cases,
            the next the rest.
        tandem_band: Tandem: shares of the ID validation images between which a case is in doubt.
        baselines: Post-hoc detectors scored beside it.
        fused: The scores that `fusion` combines, a subset of the baselines, with `diffguard`.
        decision: The score that decides on new images.
        accept: Share of ID validation images that the threshold accepts.
        knn_k: Neighbors of the KNN baseline.
        reference_images: Most ID training images that the feature baselines are fitted on.
        vim_dim: Principal dimensions of the ViM baseline; None takes half of the features'.
        perceptual_weights: Folder or file with the backbone weights of LPIPS and DISTS.
        compile: Compile the diffusion network, see `engine/acceleration.py`. Changes no score
            beyond rounding, as does `channels_last`.
        channels_last: Keep the diffusion network in channels-last memory format.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    early_stop: EarlyStopSettings = field(default_factory=EarlyStopSettings)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    distances: list[str] = field(default_factory=lambda: ["logits_l1", "feature_cosine", "l2"])
    unguided: list[str] = field(default_factory=list)
    distance: list[str] = field(default_factory=lambda: ["logits_l1"])
    combine: Combine = "mean"
    tandem_band: list[float] = field(default_factory=lambda: [0.5, 0.99])
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    fused: list[str] = field(default_factory=lambda: ["knn"])
    decision: str = "fusion"
    accept: float = 0.95
    knn_k: int = 50
    reference_images: int = 10_000
    vim_dim: int | None = None
    perceptual_weights: str | None = None
    compile: CompileMode = False
    channels_last: bool = False

    def fusion_rule(self) -> FusionRule:
        """How the scores of an image are combined."""
        band = None
        if self.combine == "tandem":
            low, high = self.tandem_band
            band = (low, high)
        return FusionRule(self.distance, self.baselines, self.fused, band)


# Settings that decide on new images and change no score.
DECIDING = ("decision", "accept")
# Settings that choose among the columns of a score table, or combine them.
COMBINING = ("distances", "unguided", "distance", "combine", "tandem_band", "baselines", "fused")


def score_names(settings: DetectorSettings, *, derived: bool = True) -> list[str]:
    """The scores of each image, in the order of the table's columns.

    Args:
        settings: The detector's settings.
        derived: Include those that need calibration: `diffguard` and its fusion.
    """
    names = [
        *([DIFFGUARD] if derived else []),
        *(f"{DIFFGUARD}/{name}" for name in settings.distances),
        *(f"{DIFFGUARD}/unguided/{name}" for name in settings.unguided),
        *settings.baselines,
    ]
    if derived and settings.fused:
        names += [FUSION, *(f"{FUSION}/{name}" for name in settings.baselines), FUSION_BASELINES]
    return list(dict.fromkeys(names))


def to_dict(settings: DetectorSettings) -> dict[str, Any]:
    """Settings as plain nested dictionaries, for a checkpoint or a manifest."""
    return asdict(settings)


def from_dict(values: Mapping[str, Any]) -> DetectorSettings:
    """Settings from plain nested dictionaries.

    Raises:
        UserError: For a key that is not a setting.
    """
    return _build(DetectorSettings, values)


def _build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{unknown[0]!r} is not a detector setting, expected one of {list(known)}")
    defaults = cls()
    built = {
        name: _build(type(getattr(defaults, name)), value)
        if is_dataclass(getattr(defaults, name))
        else value
        for name, value in values.items()
    }
    return cls(**built)
