"""The description of a classifier, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from diffguard.classifiers.library import published_arguments
from diffguard.classifiers.preprocessing import published_preprocessing
from diffguard.images import Interpolation
from diffguard.storage.arguments import LARGEST_SIDE, LONGEST_NAME, MOST_CLASSES

_Name = Annotated[str, StringConstraints(max_length=LONGEST_NAME)]
_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass
class ClassifierSpec:
    """What a classifier is, apart from its weights.

    Attributes:
        arch: `small_cnn`, `whitened_cnn`, `torchvision/NAME`, `timm/NAME`, `openood/NAME`, or the
            import path of a module class.
        num_classes: Number K of classes.
        kwargs: Further arguments of the constructor.
        channels: Channels that the network takes, 1 or 3.
        size: `[height, width]` that the network takes; None uses the published size (with
            `resize`), or leaves images unchanged if nothing is published.
        resize: Side to which images are resized before `size` is cropped from their center; with
            a `size` and no `resize`, images are resized without a crop.
        interpolation: `bilinear` or `bicubic`; None uses the published one.
        mean: Mean per channel; None uses the published one.
        std: Standard deviation per channel; None uses the published one.
        feature_layer: Layer whose input is the features; None uses the last layer.
        cam_layer: Layer for Grad-CAM; None uses `find_cam_layer`.
        class_names: Names of the classes; None numbers them.
    """

    arch: _Name
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    kwargs: dict[str, Any] = field(default_factory=dict)
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    size: list[_Side] | None = None
    resize: _Side | None = None
    interpolation: Interpolation | None = None
    mean: list[_Finite] | None = None
    std: list[_Spread] | None = None
    feature_layer: _Name | None = None
    cam_layer: _Name | None = None
    class_names: Annotated[list[str], Field(max_length=MOST_CLASSES)] | None = None


def resolve_spec(spec: ClassifierSpec) -> ClassifierSpec:
    """Fill the gaps of a spec with the values published for its architecture.

    These are the preprocessing, and the arguments that the library adds with its weights.

    Raises:
        UserError: For an architecture that its library does not know.
    """
    kwargs = {**published_arguments(spec.arch, spec.num_classes), **spec.kwargs}
    published = published_preprocessing(spec.arch, kwargs, spec.num_classes, spec.channels)
    size, resize = spec.size, spec.resize
    if size is None and published.size is not None:
        size, resize = list(published.size), published.resize if resize is None else resize
    return replace(
        spec,
        kwargs=kwargs,
        size=size,
        resize=resize,
        interpolation=spec.interpolation or published.interpolation,
        mean=list(published.mean) if spec.mean is None else spec.mean,
        std=list(published.std) if spec.std is None else spec.std,
    )
