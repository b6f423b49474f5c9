"""Distances between images and the pictures that phases end in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Phase
from diffguard.methods.views import views_of
from diffguard.scores.distances import Distance, Views


@torch.no_grad()
def picture_distances(
    classifier: Classifier,
    distances: Sequence[Distance],
    phases: Sequence[Phase],
    outcomes: Sequence[Outcome],
    batch_size: int,
    output: ClassifierOutput | None = None,
) -> Tensor:
    """Compare images with their pictures.

    Args:
        classifier: The protected classifier, which some distances read.
        distances: D distances.
        phases: P phases whose pictures are compared.
        outcomes: At most `batch_size` of them.
        batch_size: Rows of every network call.
        output: The classifier's output for the images; None suffices for distances of images.

    Returns:
        `(N, P, D)` float64 on the CPU, higher = more different.
    """
    layers = sorted({d.layer for d in distances if d.layer is not None})
    classifies = any(distance.needs != "images" for distance in distances)

    def pictures_of(phase: Phase) -> Views:
        pictures = padded(torch.stack([o.pictures[phase] for o in outcomes]), batch_size)
        if not classifies:
            return Views(pictures)
        return views_of(pictures, classifier.forward_features(pictures, layers))

    images = padded(torch.stack([outcome.job.image for outcome in outcomes]), batch_size)
    source = Views(images) if output is None else views_of(images, output.padded(batch_size))
    by_phase = []
    for phase in phases:
        pictures = pictures_of(phase)
        by_phase.append(torch.stack([d(source, pictures) for d in distances], dim=1))
    return torch.stack(by_phase, dim=1)[: len(outcomes)].double().cpu()
