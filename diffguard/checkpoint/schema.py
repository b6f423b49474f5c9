"""The fields of a `detector.ckpt`, their types and ranges; all are checked before any is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, Field, InstanceOf, StringConstraints
from torch import Tensor
from typing_extensions import TypedDict

from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError
from diffguard.settings.plain import check_types
from diffguard.storage.arguments import LARGEST_SIDE, LONGEST_NAME
from diffguard.storage.schema import validated, validated_plain

_LONGEST_PATH = 4096


def _finite_row(values: Tensor) -> Tensor:
    _check_plain(values)
    if values.ndim != 1 or values.dtype != torch.float64:
        raise ValueError(f"expected (n,) float64, got {_described(values)}")
    if not bool(values.isfinite().all()):
        raise ValueError("holds values that are not finite")
    if len(values) < 2 or bool((values == values[0]).all()):
        raise ValueError(f"does not vary over {len(values)} images, expected two or more")
    return values


def _features(values: Tensor) -> Tensor:
    _check_plain(values)
    if values.ndim != 2 or not values.is_floating_point() or 0 in values.shape:
        raise ValueError(f"expected (n, d) floating-point features, got {_described(values)}")
    if not bool(values.isfinite().all()):
        raise ValueError("holds values that are not finite")
    return values


def _labels(values: Tensor) -> Tensor:
    if values.ndim != 1 or values.dtype != torch.int64:
        raise ValueError(f"expected (n,) int64 labels, got {_described(values)}")
    return values


def _passes(values: Tensor) -> Tensor:
    _check_plain(values)
    if values.ndim != 1 or values.dtype != torch.float64:
        raise ValueError(f"expected (n,) float64, got {_described(values)}")
    if not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError("holds numbers of network passes that are not finite or below 0")
    return values


def _check_plain(values: Tensor) -> None:
    if values.requires_grad:
        raise ValueError("requires a gradient, expected plain numbers")


def _described(values: Tensor) -> str:
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"


_Name = Annotated[str, StringConstraints(max_length=LONGEST_NAME)]
_State = dict[_Name, InstanceOf[Tensor]]
_Scores = dict[_Name, Annotated[InstanceOf[Tensor], AfterValidator(_finite_row)]]


class _Classifier(TypedDict):
    spec: dict[str, Any]
    state: _State


class _Reference(TypedDict):
    path: Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_PATH)]
    inside: bool
    options: dict[str, Any]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Diffusion(TypedDict):
    spec: dict[str, Any]
    state: _State | None
    parts: NotRequired[dict[_Name, _State]]
    reference: NotRequired[_Reference | None]


class _Image(TypedDict):
    size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    channels: Annotated[int, Field(ge=1, le=3)]


_FeatureRows = Annotated[InstanceOf[Tensor], AfterValidator(_features)]


class _Quality(TypedDict):
    images: Annotated[int, Field(ge=1)]
    label_kept: Annotated[float, Field(ge=0, le=1)]
    resemblance: Annotated[float, Field(ge=0, le=1)]


class _Calibration(TypedDict):
    scores: _Scores
    features: NotRequired[_FeatureRows | None]
    passes: NotRequired[Annotated[InstanceOf[Tensor], AfterValidator(_passes)] | None]
    quality: NotRequired[_Quality | None]


class _Features(TypedDict):
    features: _FeatureRows
    labels: Annotated[InstanceOf[Tensor], AfterValidator(_labels)]
    share: NotRequired[Annotated[float, Field(gt=0, le=1)]]


class _Content(TypedDict):
    classifier: _Classifier
    diffusion: _Diffusion
    noisy_classifier: _State | None
    settings: dict[str, Any]
    image: _Image
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    calibration: _Calibration
    reference: _Features | None
    fits: NotRequired[dict[_Name, _State]]
    config: dict[str, Any]


def check_content(content: Mapping[str, Any], source: str) -> None:
    """Check the content of a checkpoint field by field.

    Args:
        content: The content of a file, of the present version.
        source: The file; the error begins with it.

    Raises:
        UserError: For the first field that is missing, of another type or out of range, and for
            fields that contradict each other.
    """
    validated(_Content, dict(content), source)
    spec: ClassifierSpec = validated_plain(
        ClassifierSpec, content["classifier"]["spec"], f"{source}: classifier.spec"
    )
    validated_plain(DiffusionSpec, content["diffusion"]["spec"], f"{source}: diffusion.spec")
    check_types(content["settings"], f"{source}: settings")
    validated_plain(dict[str, Any], content["config"], f"{source}: config")
    model = content["diffusion"].get("reference")
    if model is not None:
        validated_plain(CheckpointOptions, model["options"], f"{source}: diffusion.reference")
        unknown = sorted(set(model["options"]) - {f.name for f in fields(CheckpointOptions)})
        if unknown:
            raise damaged(source, f"{unknown[0]!a:.60} is not an option of a diffusion model")
    elif content["diffusion"]["state"] is None:
        raise damaged(source, "it holds no diffusion model and refers to none")
    calibration = content["calibration"]
    lengths = {len(values) for values in calibration["scores"].values()}
    if calibration.get("passes") is not None:
        lengths.add(len(calibration["passes"]))
    if len(lengths) != 1:
        raise damaged(source, "its calibration scores are of different numbers of images")
    reference = content["reference"]
    if reference is not None:
        _check_reference(reference, spec.num_classes, source)


def damaged(source: str, reason: str) -> UserError:
    """The error for content that contradicts itself."""
    return UserError(f"{source} is damaged: {reason}; save or train it again")


def _check_reference(reference: Mapping[str, Any], classes: int, source: str) -> None:
    features, labels = reference["features"], reference["labels"]
    if len(features) != len(labels):
        raise damaged(source, f"it has {len(features)} reference features, {len(labels)} labels")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise damaged(source, f"its reference labels are not 0 … {classes - 1}")
