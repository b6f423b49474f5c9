"""Refuses baselines and hyper-parameters that do not fit the classifier or the ID images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from diffguard.errors import UserError
from diffguard.scores.baseline_table import (
    CLASS_BASELINES,
    HEAD_BASELINES,
)
from diffguard.scores.feature_baselines import GUIDE_NEIGHBORS
from diffguard.scores.hyper_parameters import kept_activations

SUMMED_BASELINES = ("ash", "scale")
"""Baselines whose formula adds up activations, which a ReLU must have made at least 0."""

# Largest sum of the negative activations, as a share of the sum of the positive ones. Pooled
# activations behind SiLU or GELU are hardly negative; those behind a LayerNorm cancel out.
_MOST_NEGATIVE = 0.1

Parameters = Mapping[str, float | None]


def check_head_baselines(
    names: Sequence[str], head: nn.Linear | None, parameters: Parameters
) -> None:
    """Refuse baselines that do not fit the classifier's last layer.

    Args:
        names: The baselines in use.
        head: The last layer; None if it is not linear.
        parameters: The hyper-parameters.

    Raises:
        UserError: If there are any; names the baseline or the setting.
    """
    for name in names:
        if name in HEAD_BASELINES and head is None:
            raise UserError(
                f"baseline {name} needs the classifier's last linear layer: name it in "
                f"feature_layer (classifier.feature_layer of a config), or leave {name} out of "
                "detector.baselines"
            )
    if head is None:
        return
    width, dimensions = head.in_features, parameters["vim_dim"]
    if "vim" in names and (dimensions or 0) >= width:
        raise UserError(
            f"detector.vim_dim is {dimensions}, but the classifier has {width} features: "
            "expected fewer dimensions than features; null takes half of them"
        )
    for name in SUMMED_BASELINES:
        share = parameters[f"{name}_percentile"]
        if name in names and share is not None and not kept_activations(share, width):
            raise UserError(
                f"detector.{name}_percentile {share:g} leaves none of the classifier's {width} "
                "features: lower it"
            )


def check_activations(names: Sequence[str], features: Tensor) -> None:
    """Refuse baselines that add up activations if the classifier's cancel each other out.

    Args:
        names: The baselines in use.
        features: `(N, D)` of some images.

    Raises:
        UserError: Naming the baselines.
    """
    affected = [name for name in names if name in SUMMED_BASELINES]
    negative, positive = -features.clamp(max=0).sum(), features.clamp(min=0).sum()
    if affected and negative > _MOST_NEGATIVE * positive:
        raise UserError(
            f"baselines {', '.join(affected)} need activations behind a ReLU, but the sum of the "
            f"classifier's negative features is {float(negative / positive):.0%} of the positive "
            f"ones, as in most transformers: leave {', '.join(affected)} out of detector.baselines"
        )


def check_classes(names: Sequence[str], labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse baselines that are fitted class by class if a class has no reference image.

    Args:
        names: The baselines in use.
        labels: `(N,)` int64, classes of the reference images.
        class_names: Names of all classes.

    Raises:
        UserError: Naming the baselines and the classes.
    """
    affected = [name for name in names if name in CLASS_BASELINES]
    present = set(labels.tolist())
    empty = [name for k, name in enumerate(class_names) if k not in present]
    if affected and empty:
        raise UserError(
            f"baselines {', '.join(affected)} need a reference image of each class, but "
            f"{len(empty)} of {len(class_names)} classes have none ({', '.join(empty[:3])}): raise "
            "detector.reference_images, add ID training images of them, or leave "
            f"{', '.join(affected)} out of detector.baselines"
        )


def check_neighbors(names: Sequence[str], parameters: Parameters, images: int) -> None:
    """Refuse baselines with more neighbors than ID training images.

    Args:
        names: The baselines in use.
        parameters: The hyper-parameters.
        images: ID training images.

    Raises:
        UserError: If there are too few images.
    """
    neighbors = parameters["knn_k"]
    if "knn" in names and neighbors is not None and images < neighbors:
        raise UserError(
            f"detector.knn_k is {neighbors:,}, but there are only {images:,} ID training images: "
            "lower it"
        )
    if "nnguide" in names and images < GUIDE_NEIGHBORS:
        raise UserError(
            f"baseline nnguide needs at least {GUIDE_NEIGHBORS} ID training images, but there are "
            f"only {images}: add some, or leave nnguide out of detector.baselines"
        )
