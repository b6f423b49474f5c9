"""Images as the distances see them."""

from __future__ import annotations

from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.scores.distances import Views


def views_of(images: Tensor, output: ClassifierOutput) -> Views:
    """Images `(N, C, H, W)` with the classifier's output, as the distances take them."""
    return Views(images, output.logits, output.features, output.layers)
