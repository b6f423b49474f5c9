"""Preprocessing described by transforms of torchvision or timm.

A detector's working images are square, so a resize of the shorter side makes them square too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffguard.classifiers.preprocessing import Preprocessing
from diffguard.errors import UserError

_INSTEAD = (
    "give size, resize, interpolation, mean and std instead of preprocess (resize is the side "
    "before the center of `size` is cut out)"
)
# Transforms to a float tensor in [0, 1], which a classifier receives anyway.
_CONVERSIONS = {
    *("ToTensor", "PILToTensor", "ToImage", "ToPureTensor", "MaybeToTensor", "MaybePILToTensor"),
    *("ToDtype", "ConvertImageDtype", "Identity", "RGB"),
}


@dataclass
class _Steps:
    """The steps of a composition, in the order in which they may occur."""

    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    result: Preprocessing = field(default_factory=Preprocessing)
    is_normalized: bool = False


def preprocessing_of(preprocess: Any) -> Preprocessing:
    """The preprocessing that transforms describe.

    Args:
        preprocess: `weights.transforms()` of a torchvision classifier, timm's `create_transform`
            for evaluation, a composition of Resize, CenterCrop, conversions and Normalize, or None
            for images in [0, 1] as they are.

    Raises:
        UserError: For any other transform, naming the arguments to give instead.

    Example:
        >>> from torchvision.transforms import v2
        >>> preprocessing_of(v2.Normalize([0.5], [0.25])).std
        (0.25,)
    """
    if preprocess is None or isinstance(preprocess, Preprocessing):
        return preprocess or Preprocessing()
    if type(preprocess).__name__ == "ImageClassification":
        return _of_preset(preprocess)
    steps = getattr(preprocess, "transforms", [preprocess])
    if not isinstance(steps, Iterable):
        raise _not_understood(preprocess)
    return _of_steps(steps)


def _of_preset(preset: Any) -> Preprocessing:
    """Torchvision's `ImageClassification`."""
    _check_antialias(preset)
    return Preprocessing(
        _pair(preset.crop_size),
        _pair(preset.resize_size)[0],
        _interpolation(preset),
        tuple(preset.mean),
        tuple(preset.std),
    )


def _of_steps(steps: Iterable[Any]) -> Preprocessing:
    state = _Steps()
    for step in steps:
        if state.is_normalized:
            raise UserError(f"preprocess has {_name(step)} after Normalize: {_INSTEAD}")
        _take(step, state)
    return replace(state.result, **_sizes(state))


def _take(step: Any, state: _Steps) -> None:
    """Add a step of a composition."""
    name = _name(step)
    is_library = type(step).__module__.startswith(("torchvision.transforms", "timm.data"))
    if is_library and name in _CONVERSIONS:
        is_float = getattr(step, "dtype", torch.float32) == torch.float32
        if not is_float or getattr(step, "scale", True) is False:
            raise UserError(f"preprocess has {name}, which does not scale to [0, 1]: {_INSTEAD}")
    elif is_library and name == "Resize" and state.resize is None and state.crop is None:
        _check_antialias(step)
        if step.max_size is not None:
            raise UserError(f"preprocess has Resize with max_size: {_INSTEAD}")
        state.resize = _pair(step.size)
        state.result = replace(state.result, interpolation=_interpolation(step))
    elif is_library and name == "CenterCrop" and state.crop is None:
        state.crop = _pair(step.size)
    elif is_library and name == "Normalize":
        mean, std = (torch.as_tensor(values).tolist() for values in (step.mean, step.std))
        state.result = replace(state.result, mean=tuple(mean), std=tuple(std))
        state.is_normalized = True
    else:
        raise _not_understood(step)


def _sizes(state: _Steps) -> dict[str, Any]:
    """`size` and `resize` of a composition."""
    full, crop = state.resize, state.crop
    if crop is None:
        return {"size": full}
    if full is None:
        raise UserError(f"preprocess has CenterCrop without Resize: {_INSTEAD}")
    if full == crop:
        return {"size": crop}
    if full[0] != full[1]:
        raise UserError(f"preprocess cuts the center out of a rectangle: {_INSTEAD}")
    return {"size": crop, "resize": full[0]}


def _check_antialias(step: Any) -> None:
    if getattr(step, "antialias", True) in (False, None):
        raise UserError(
            f"preprocess resizes without antialias, but images are resized with it: {_INSTEAD}"
        )


def _interpolation(step: Any) -> Any:
    mode = getattr(step.interpolation, "value", step.interpolation)
    if mode not in ("bilinear", "bicubic"):
        raise UserError(f"preprocess resizes by {mode}, expected bilinear or bicubic: {_INSTEAD}")
    return mode


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size as `(height, width)`."""
    sides = (size,) if isinstance(size, int) else tuple(size)
    return sides[0], sides[-1]


def _name(step: Any) -> str:
    return type(step).__name__


def _not_understood(step: Any) -> UserError:
    return UserError(f"preprocess has {_name(step)}, which is not supported: {_INSTEAD}")
