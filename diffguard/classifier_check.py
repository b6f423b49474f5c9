"""Whether a classifier and labelled images belong together, told from its predictions on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from diffguard.classifiers import ClassifierOutput
from diffguard.errors import UserError

# With fewer images of a class, chance could have moved most of them.
_ENOUGH_OF_A_CLASS = 5


def check_labels(labels: Tensor, predictions: Tensor, class_names: Sequence[str]) -> str | None:
    """Notice a classifier whose classes are in another order, or that does not know the images.

    Args:
        labels: `(N,)` int64, true classes of ID images.
        predictions: `(N,)` int64, predicted ones.
        class_names: Names of the classes in the order of the labels.

    Returns:
        A warning where the accuracy is no better than chance, else None.

    Raises:
        UserError: Where most images of two or more classes are predicted as another class, in a
            way that another order of the classes explains.
    """
    classes = len(class_names)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels.numpy(), predictions.numpy()), 1)
    per_class = confusion.sum(1)
    # The order of the classes that explains the predictions best.
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    moved = [
        (row, column)
        for row, column in zip(rows, columns, strict=True)
        if row != column
        and per_class[row] >= _ENOUGH_OF_A_CLASS
        and 2 * confusion[row, column] > per_class[row]
    ]
    if len(moved) > 1:
        told = "; ".join(
            f"{confusion[row, column]} of {per_class[row]} images of {class_names[row]!r} are "
            f"classified as {class_names[column]!r}"
            for row, column in moved[:3]
        )
        raise UserError(
            f"the classifier's classes are in another order than the data's ({told}): name them in "
            "the classifier's order in data.class_names"
        )
    right, total = int(np.trace(confusion)), len(labels)
    chance = 1 / classes
    noise = 2 * math.sqrt(chance * (1 - chance) / total)
    if right / total > chance + noise:
        return None
    return (
        f"warning: the classifier is right on only {right} of {total} ID validation images, no "
        f"better than chance among {classes} classes: check its weights, data.class_names, and "
        "classifier.mean, std and size"
    )


def check_head(head: nn.Linear | None, output: ClassifierOutput, baselines: Sequence[str]) -> None:
    """Make sure that the features, through the last layer, are the logits.

    ViM, SHE and NNGuide compute with that layer's weights, and would be wrong in silence.

    Args:
        head: The classifier's last linear layer; None where it has none.
        output: Logits and features of some images.
        baselines: Those in use that read the head's weights.

    Raises:
        UserError: Where they are not.
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
            "its features: name the layer in classifier.feature_layer, or leave "
            f"{', '.join(baselines)} out of detector.baselines"
        )
