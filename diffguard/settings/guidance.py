"""The two forms of guidance, each with its own settings.

`detector.guidance` names the form, and the section of that name holds its settings:
`detector.classifier_free` or `detector.classifier`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from diffguard.diffusion.crops import Reduction
from diffguard.errors import UserError
from diffguard.settings.values import check_scale, check_values, refuse_unused
from diffguard.storage.arguments import LARGEST_SIDE

MOST_CROPS = 10_000

Form = Literal["classifier_free", "classifier"]
GuidingClassifier = Literal["protected", "noisy"]


@dataclass(frozen=True)
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

    Raises:
        UserError: For a value out of range or without effect.
    """

    number: int = 0
    size: int | None = None
    reduction: Reduction = "mean"
    shared: bool = False
    seed: int = 100

    def __post_init__(self) -> None:
        name = "detector.classifier.crops"
        check_values(self, name)
        if not 0 <= self.number <= MOST_CROPS:
            raise UserError(
                f"{name}.number must be 0, which shows the whole image, to {MOST_CROPS:,}, got "
                f"{self.number}"
            )
        if self.size is not None and not 1 <= self.size <= LARGEST_SIDE:
            raise UserError(f"{name}.size must be 1 to {LARGEST_SIDE:,}, got {self.size}")
        if not self.number:
            owner = f"a {name}.number above 0"
            refuse_unused(self, name, dict.fromkeys(("size", "reduction", "shared"), owner))
        if not self.shared:
            refuse_unused(self, name, {"seed": f"{name}.shared true"})


@dataclass(frozen=True)
class ClassifierFreeSettings:
    """Classifier-free guidance, for class-conditional diffusion models.

    Attributes:
        scale: Guidance scale, at least 0; 0 is no guidance, 1 is the noise with label alone.
        cam_cut: Guide only where the scaled Grad-CAM is above this cut (below its absolute value,
            if negative), in [-1, 1]; None guides everywhere.

    Raises:
        UserError: For a value out of range.
    """

    form: ClassVar[Form] = "classifier_free"

    scale: float = 3.0
    cam_cut: float | None = None

    @property
    def sees_both(self) -> bool:
        """Whether a guided step takes passes both without and with the label."""
        return self.scale not in (0, 1)

    def __post_init__(self) -> None:
        check_values(self, "detector.classifier_free")
        check_scale(self.scale, "detector.classifier_free.scale")
        if self.cam_cut is not None and not -1 <= self.cam_cut <= 1:
            raise UserError(
                f"detector.classifier_free.cam_cut must lie in [-1, 1], got {self.cam_cut:g}"
            )


@dataclass(frozen=True)
class ClassifierGuidanceSettings:
    """Guidance by the gradient of a classifier, for any diffusion model.

    Attributes:
        scale: Guidance scale, at least 0; 0 is no guidance.
        model: Which classifier guides: the `protected` one, or a `noisy` one that was trained on
            noisy images (the paper's ablation; without blend).
        blend: Show the classifier Clean Grad's blend of the state and the clean estimate.
        crops: Random crops.

    Raises:
        UserError: For a value out of range, or a noisy classifier with blend.
    """

    form: ClassVar[Form] = "classifier"

    scale: float = 3.0
    model: GuidingClassifier = "protected"
    blend: bool = True
    crops: CropSettings = field(default_factory=CropSettings)

    @property
    def sees_both(self) -> bool:
        """Whether a guided step takes passes both without and with the label: never."""
        return False

    def __post_init__(self) -> None:
        check_values(self, "detector.classifier")
        check_scale(self.scale, "detector.classifier.scale")
        if self.model == "noisy" and self.blend:
            raise UserError(
                "detector.classifier.model noisy was trained on noisy images: set "
                "detector.classifier.blend to false, or take the protected classifier"
            )


GuidanceSettings = ClassifierFreeSettings | ClassifierGuidanceSettings
# Form of guidance -> its settings.
FORMS: dict[Form, type[GuidanceSettings]] = {
    settings.form: settings for settings in (ClassifierFreeSettings, ClassifierGuidanceSettings)
}


def unused_section(form: str, guidance: str) -> UserError:
    """The error for a section of settings of a form of guidance that is not in use."""
    return UserError(
        f"detector.{form} has no effect here: it belongs to detector.guidance {form}, and "
        f"detector.guidance is {guidance}; leave it out, or change detector.guidance"
    )
