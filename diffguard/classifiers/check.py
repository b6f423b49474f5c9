"""Checks that a classifier fits labeled images, from its predictions on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.errors import UserError

# With fewer images in a class, most of them could be misclassified by chance.
_ENOUGH_OF_A_CLASS = 5
# A class counts as lost if at most this share of its images is classified correctly.
_LOST_RECALL = 0.05
# A classifier is refused only if chance alone loses its classes with a lower probability.
_CHANCE_OF_LOSS = 0.01
# Share of all images that another order must explain when it is compared by accuracy.
_EXPLAINED = 1 / 3


def check_labels(labels: Tensor, predictions: Tensor, class_names: Sequence[str]) -> str | None:
    """Detect a classifier whose classes are in another order, or that does not fit the images.

    Two of many classes that mean the same (ImageNet's sunglass and sunglasses) are confused by
    chance. Another order is therefore an error only if it at least doubles the accuracy, or if the
    classes that it moves have lost more images than chance explains.

    Args:
        labels: `(N,)` int64, true classes of ID images.
        predictions: `(N,)` int64, predicted classes.
        class_names: Names of the classes in the order of the labels.

    Returns:
        A warning if classes may be swapped, or if the accuracy is no better than chance; otherwise
        None.

    Raises:
        UserError: If another order of the classes explains the predictions, or for a label
            beyond the classes.
    """
    classes = len(class_names)
    if (top := int(labels.max())) >= classes:
        raise UserError(
            f"an ID validation image has label {top}, but the classifier has {classes} classes, "
            f"0 to {classes - 1}: correct its label"
        )
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels.numpy(), predictions.numpy()), 1)
    right, total = int(np.trace(confusion)), len(labels)
    swaps = _moved_classes(confusion)
    if len(swaps) > 1:
        examples = "; ".join(
            f"{confusion[row, column]} of {confusion[row].sum()} images of {class_names[row]!r} "
            f"are classified as {class_names[column]!r}"
            for row, column in swaps[:3]
        )
        if _is_another_order(confusion, swaps):
            raise UserError(
                f"the classifier's classes are in another order than the data's ({examples}): "
                "give class_names in the classifier's order"
            )
        return (
            f"warning: the classifier confuses {len(swaps)} classes more often than it recognizes "
            f"them ({examples}): if they are not alike, check the order of class_names"
        )
    chance = 1 / classes
    noise = 2 * math.sqrt(chance * (1 - chance) / total)
    if right / total > chance + noise:
        return None
    return (
        f"warning: the classifier is right on only {right} of {total} ID validation images, no "
        f"better than chance among {classes} classes: check its weights, its preprocessing "
        "(mean, std, size) and class_names"
    )


def _moved_classes(confusion: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Classes most of whose images are predicted as another class, least recognized first."""
    per_class = confusion.sum(1)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    swaps = [
        (row, column)
        for row, column in zip(rows, columns, strict=True)
        if row != column
        and per_class[row] >= _ENOUGH_OF_A_CLASS
        and 2 * confusion[row, column] > per_class[row]
    ]
    return sorted(swaps, key=lambda place: confusion[place[0], place[0]] / per_class[place[0]])


def _is_another_order(confusion: NDArray[np.int64], swaps: Sequence[tuple[int, int]]) -> bool:
    per_class, recognized = confusion.sum(1), np.diag(confusion)
    explained = sum(confusion[place] for place in swaps)
    if explained > 2 * recognized.sum() and explained > _EXPLAINED * confusion.sum():
        return True
    lost_rows = [row for row, _ in swaps if recognized[row] <= _LOST_RECALL * per_class[row]]
    # If two classes mean the same, half of their images are classified correctly.
    chance = len(confusion) * 0.5 ** int(per_class[lost_rows].sum())
    return len(lost_rows) > 1 and chance < _CHANCE_OF_LOSS


def check_head(head: nn.Linear | None, output: ClassifierOutput, baselines: Sequence[str]) -> None:
    """Check that the last layer maps the features to the logits.

    ViM, SHE and NNGuide use that layer's weights and would otherwise be silently wrong.

    Args:
        head: The classifier's last linear layer; None if it has none.
        output: Logits and features of some images.
        baselines: The baselines in use that read the head's weights.

    Raises:
        UserError: If it does not.
    """
    if head is None or not baselines:
        return
    with torch.no_grad():
        logits = head(output.features.to(head.weight)).float()
    expected = output.logits.float()
    # Wide enough for half precision.
    if float((logits - expected).abs().max()) > 0.05 * float(expected.abs().max()):
        raise UserError(
            f"baseline {baselines[0]} needs a linear last layer, but the classifier does more with "
            "its features: name the layer in feature_layer (classifier.feature_layer of a config), "
            f"or leave {', '.join(baselines)} out of detector.baselines"
        )
