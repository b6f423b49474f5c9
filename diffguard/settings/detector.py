"""The settings of a detector: what the config's `detector` section holds.

Plain data classes, so that they can be typed on the command line, stored in a checkpoint and
compared. Defaults are the sound choices; `configs/paper_*.yaml` hold the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from diffguard.diffusion.guidance import Reduction
from diffguard.diffusion.schedule import FirstLevel, Pairing, Spacing
from diffguard.engine.acceleration import CompileMode
from diffguard.errors import UserError

Condition = Literal["null", "label", "guided"]
Kind = Literal["classifier_free", "classifier"]
GuidingClassifier = Literal["protected", "noisy"]
LabelSource = Literal["prediction", "oracle"]
Combine = Literal["mean", "tandem"]

BASELINES = ("msp", "mls", "energy", "knn", "vim")


@dataclass
class SamplerSettings:
    """Timesteps and noise levels.

    Attributes:
        steps: DDIM steps of the whole schedule.
        spacing: How timesteps are chosen, see `diffguard.diffusion.schedule.respace`.
        pairing: Which noise level a timestep belongs to in inversion, see
            `diffguard.diffusion.schedule.SamplingPlan`.
        first_level: The level of a clean image: `clean` (ᾱ = 1) or `first` (ᾱ of timestep 0).
        clip: Clamp the clean estimate to [-1, 1] (pixel models), except at the first inversion
            step.
    """

    steps: int = 16
    spacing: Spacing = "even"
    pairing: Pairing = "target"
    first_level: FirstLevel = "clean"
    clip: bool = False


@dataclass
class InversionSettings:
    """How the image is encoded.

    Attributes:
        depth: Deepest inversion, as a share of the schedule's steps in (0, 1].
        condition: Label that the model sees: none (`null`), that of `guidance.label` (`label`), or
            both under classifier-free guidance (`guided`).
        scale: Guidance scale of `guided`, at least 0.
    """

    depth: float = 0.75
    condition: Condition = "null"
    scale: float = 1.0

    def most_steps(self, steps: int) -> int:
        """Most inversion steps of an image, of `steps` of the schedule."""
        return max(1, round(self.depth * steps))


@dataclass
class EarlyStopSettings:
    """Adaptive early stop.

    Attributes:
        thresholds: Quality -> threshold; inversion of an image stops when any is below. `psnr` in
            dB; `ssim`, `dists` and cosines with 1 for equal images; other distances with a minus
            sign. None switches a quality off, so that it is not measured. Empty: every image goes
            to `inversion.depth`.
        mean_depth: Where given, calibration replaces the thresholds by those at which ID
            validation images stop, on average, at this share of the schedule.
    """

    thresholds: dict[str, float | None] = field(default_factory=dict)
    mean_depth: float | None = None


@dataclass
class CropSettings:
    """Random crops (cut-outs) shown to the guiding classifier.

    Attributes:
        number: Crops per step; 0 shows the whole image. A call of the classifier shows as many of
            them as have, for the whole batch, no more pixels than 50 images of 224×224; or one.
        size: Smallest side, and the side to which crops are resized; None is that of the
            classifier.
        reduction: `sum` (the paper's) or `mean` over the crops.
        shared: Every image gets the same crops (the authors' program); otherwise they belong to
            the image and the step.
        seed: Seed of the shared crops.
    """

    number: int = 0
    size: int | None = None
    reduction: Reduction = "mean"
    shared: bool = False
    seed: int = 100


@dataclass
class GuidanceSettings:
    """How synthesis is steered to the label.

    Attributes:
        kind: `classifier_free` (class-conditional model) or `classifier` (any model).
        scale: Guidance scale, at least 0; 0 is no guidance.
        cam_cut: Classifier-free: guide only where the scaled Grad-CAM is above this cut (below
            its absolute value, if negative); None guides everywhere.
        classifier: Classifier: which one guides, the `protected` one, or a `noisy` one that was
            trained on noisy images (the paper's ablation; without blend).
        blend: Classifier: Clean Grad's blend with the clean estimate.
        crops: Classifier: random crops.
        extra_start: Synthesis starts this many steps above the level that inversion reached,
            at most at the top.
        skip: Where given, synthesis starts this many steps below the top for every image.
        label: Label to guide to: the prediction, or the oracle of the studies (true label of ID
            images, a random one for OOD images).
    """

    kind: Kind = "classifier_free"
    scale: float = 3.0
    cam_cut: float | None = None
    classifier: GuidingClassifier = "protected"
    blend: bool = True
    crops: CropSettings = field(default_factory=CropSettings)
    extra_start: int = 0
    skip: int | None = None
    label: LabelSource = "prediction"


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
            of them, each then normalised on ID validation images.
        combine: How several are combined: `mean`, or in `tandem`: the first decides clear cases,
            the next the rest.
        tandem_band: Tandem: shares of the ID validation images between which a case is in doubt.
        baselines: Post-hoc detectors scored beside it.
        fused: The scores that `fusion` combines, a subset of the baselines, with `diffguard`.
        decision: The score that decides on new images.
        accept: Share of ID validation images that the threshold accepts.
        knn_k: Neighbours of the KNN baseline.
        reference_images: Most ID training images that the feature baselines are fitted on.
        vim_dim: Principal dimensions of the ViM baseline; None takes half of the features'.
        perceptual_weights: Folder or file with the backbone weights of LPIPS and DISTS.
        compile: Compile the diffusion network, see `diffguard.engine.acceleration.accelerate`. Changes no
            score beyond rounding, as does `channels_last`.
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


# Settings that decide on new images and change no score.
DECIDING = ("decision", "accept")
# Settings that choose among the columns of a score table, or combine them.
COMBINING = ("distances", "unguided", "distance", "combine", "tandem_band", "baselines", "fused")


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
