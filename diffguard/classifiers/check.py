"""Checks that a classifier fits labeled images, from its predictions on them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from torch import Tensor, nn

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.errors import UserError

# With fewer images in a class, most of them could be misclassified by chance.
_ENOUGH_OF_A_CLASS = 5
# Another order must raise the accuracy by more than this share of all images.
_GAIN = 0.1
# A class counts as lost if at most this share of its images is classified correctly.
_LOST_RECALL = 0.05
# A classifier is refused only if chance explains its predictions with a lower probability.
_CHANCE = 0.01


def check_labels(
    labels: Tensor, predictions: Tensor, class_names: Sequence[str], *, refuse: bool = True
) -> str | None:
    """Detect a classifier whose classes are in another order, or that does not fit the images.

    A correct classifier also confuses classes: some have few images, and some mean the same
    (ImageNet's sunglass and sunglasses). Another order is therefore an error only if chance does
    not explain it, and if either classes that changed places have lost almost all of their images,
    or the accuracy rises by more than 0.1. If the accuracy is already above chance, it must also be
    far higher in that order: at most half as many errors, or three times as many correct images.
    In doubt there is a warning.

    Args:
        labels: `(N,)` int64, true classes of ID images.
        predictions: `(N,)` int64, predicted classes.
        class_names: Names of the classes in the order of the labels.
        refuse: Whether another order is an error; otherwise it is a warning.

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
    order = _best_order(confusion)
    moved = _moved_classes(confusion, order)
    if len(moved) > 1:
        examples = "; ".join(
            f"{confusion[row, order[row]]} of {confusion[row].sum()} images of "
            f"{class_names[row]!r} are classified as {class_names[order[row]]!r}"
            for row in moved[:3]
        )
        if refuse and _is_another_order(confusion, order, moved):
            raise UserError(
                f"the classifier's classes are in another order than the data's ({examples}): "
                "give class_names in the classifier's order, or only warn with data.check_labels "
                "false"
            )
        return (
            f"warning: the classifier confuses {len(moved)} classes more often than it recognizes "
            f"them ({examples}): if they are not alike, check the order of class_names"
        )
    if _is_above_chance(confusion):
        return None
    return (
        f"warning: the classifier is right on only {np.trace(confusion)} of {len(labels)} ID "
        f"validation images, no better than chance among {classes} classes: check its weights, its "
        "preprocessing (mean, std, size) and class_names"
    )


def _is_above_chance(confusion: NDArray[np.int64]) -> bool:
    total, chance = int(confusion.sum()), 1 / len(confusion)
    noise = 2 * math.sqrt(chance * (1 - chance) / total)
    return bool(np.trace(confusion) / total > chance + noise)


def _best_order(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of the classes with the highest accuracy: class -> predicted class."""
    return linear_sum_assignment(confusion, maximize=True)[1]


def _moved_classes(confusion: NDArray[np.int64], order: NDArray[np.int64]) -> list[int]:
    """Classes most of whose images are predicted as another class, least recognized first."""
    per_class = confusion.sum(1)
    rows = np.arange(len(confusion))
    most = 2 * confusion[rows, order] > per_class
    moved = rows[(rows != order) & (per_class >= _ENOUGH_OF_A_CLASS) & most]
    return sorted(moved.tolist(), key=lambda row: confusion[row, row] / per_class[row])


def _is_another_order(
    confusion: NDArray[np.int64], order: NDArray[np.int64], moved: Sequence[int]
) -> bool:
    classes, recognized = len(confusion), np.diag(confusion)
    explained = int(confusion[moved, order[moved]].sum())
    gain = int(confusion[np.arange(classes), order].sum() - recognized.sum())
    if min(gain, explained) > _GAIN * confusion.sum():
        # The order was fitted to the same images, so a weak classifier always gains some accuracy.
        if _is_above_chance(confusion) and not _is_far_higher(confusion, gain):
            return False
        # At most half of the images of two confused classes should be in favor of another order.
        right = int(recognized[moved].sum())
        return bool(classes * binom.cdf(right, right + explained, 0.5) < _CHANCE)
    per_class = confusion.sum(1)
    lost = {row for row in moved if recognized[row] <= _LOST_RECALL * per_class[row]}
    return any(
        classes * 0.5 ** int(per_class[cycle].sum()) < _CHANCE for cycle in _cycles(order, lost)
    )


def _is_far_higher(confusion: NDArray[np.int64], gain: int) -> bool:
    """Whether a gain more than halves the errors, or more than triples the correct images."""
    right = int(np.trace(confusion))
    return 2 * gain > confusion.sum() - right or gain > 2 * right


def _cycles(order: NDArray[np.int64], rows: Collection[int]) -> Iterator[list[int]]:
    """The groups among some classes that only changed places with each other."""
    waiting = set(rows)
    while waiting:
        cycle = [waiting.pop()]
        while (following := int(order[cycle[-1]])) in waiting:
            waiting.remove(following)
            cycle.append(following)
        if following == cycle[0]:
            yield cycle


def check_head(head: nn.Linear | None, output: ClassifierOutput, baselines: Sequence[str]) -> None:
    """Check that the last layer maps the features to the logits.

    Baselines that use that layer's weights would otherwise be silently wrong.

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
