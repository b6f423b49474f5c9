"""The sections of a detector's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffguard.diffusion.guidance import Reduction
from diffguard.diffusion.schedule import FirstLevel, Pairing, Spacing

Condition = Literal["null", "label", "guided"]


Kind = Literal["classifier_free", "classifier"]


GuidingClassifier = Literal["protected", "noisy"]


LabelSource = Literal["prediction", "oracle"]


@dataclass
class SamplerSettings:
    """Timesteps and noise levels.

    Attributes:
        steps: DDIM steps of the whole schedule.
        spacing: How timesteps are chosen, see `diffguard.diffusion.plan.respace`.
        pairing: Which noise level a timestep belongs to in inversion, see
            `diffguard.diffusion.plan.SamplingPlan`.
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
        depth: Maximum depth of the inversion, as a share of the schedule's steps in (0, 1].
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
            sign. None switches a quality off, so that it is not measured. If empty, all images
            invert to `inversion.depth`.
        mean_depth: If given, calibration sets the thresholds so that ID validation images stop,
            on average, at this share of the schedule.
    """

    thresholds: dict[str, float | None] = field(default_factory=dict)
    mean_depth: float | None = None


@dataclass
class CropSettings:
    """Random crops (cut-outs) shown to the guiding classifier.

    Attributes:
        number: Crops per step; 0 shows the whole image. A call of the classifier shows at least
            one crop of each image, and more up to the pixels of 50 images of 224×224 in total.
        size: Smallest side, and the side to which crops are resized; defaults to the
            classifier's input size.
        reduction: `sum` (the paper's) or `mean` over the crops.
        shared: All images get the same crops (the authors' program); otherwise crops depend on
            image and step.
        seed: Seed of the shared crops.
    """

    number: int = 0
    size: int | None = None
    reduction: Reduction = "mean"
    shared: bool = False
    seed: int = 100


@dataclass
class GuidanceSettings:
    """How synthesis is guided toward the label.

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
        skip: If given, synthesis of all images starts this many steps below the top.
        label: Label to guide toward: the prediction, or the oracle of the studies (true label of
            ID images, a random one for OOD images).
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
