"""Names of the post-hoc baselines, and what each needs of the classifier and the ID images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from diffguard.errors import UserError

LOGIT_BASELINES = ("msp", "mls", "energy", "entropy", "gen")
FEATURE_BASELINES = ("knn", "vim", "mahalanobis", "rmd", "she", "nnguide")

# Baselines that use the weights of the classifier's last layer.
HEAD_BASELINES = ("vim", "she", "nnguide")
# Baselines that are fitted class by class.
CLASS_BASELINES = ("mahalanobis", "rmd", "she")


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown baseline.

    Raises:
        UserError: If there is one; names it and the available ones.
    """
    baselines = (*LOGIT_BASELINES, *FEATURE_BASELINES)
    for name in names:
        if name not in baselines:
            raise UserError(
                f"baseline {name!r} is not known, expected one of {', '.join(baselines)}"
            )


def check_head_baselines(names: Sequence[str], head: nn.Linear | None, vim_dim: int | None) -> None:
    """Refuse baselines that do not fit the classifier's last layer.

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
    if "vim" in names and head is not None and (vim_dim or 0) >= head.in_features:
        raise UserError(
            f"detector.vim_dim is {vim_dim}, but the classifier has {head.in_features} features: "
            "expected fewer dimensions than features; null takes half of them"
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


def check_neighbors(knn_k: int, images: int) -> None:
    """Refuse a baseline `knn` with more neighbors than ID training images.

    Args:
        knn_k: Neighbors.
        images: ID training images.

    Raises:
        UserError: If there are too few images.
    """
    if images < knn_k:
        raise UserError(
            f"detector.knn_k is {knn_k:,}, but there are only {images:,} ID training images: lower "
            "it"
        )


def check_patterns(features: Tensor, labels: Tensor, head: nn.Linear) -> None:
    """Refuse the baseline `she` if no reference image of a class is classified correctly.

    SHE averages the features of these images, class by class.

    Args:
        features: `(N, D)` float32 of the reference images.
        labels: `(N,)` int64, their classes.
        head: The classifier's last linear layer.

    Raises:
        UserError: Naming the classes without such an image.
    """
    right = set(labels[head(features).argmax(1) == labels].tolist())
    empty = [str(k) for k in range(head.out_features) if k not in right]
    if empty:
        raise UserError(
            "baseline she needs a correctly classified reference image of each class, but "
            f"{len(empty)} of {head.out_features} classes have none (numbers "
            f"{', '.join(empty[:3])}, counted from 0): raise detector.reference_images, or leave "
            "she out of detector.baselines"
        )
