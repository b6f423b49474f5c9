"""The authors' program as a baseline: `engine/plain.py` with a pass that the engine saves.

Each image is a batch of one. The guided synthesis makes a second network pass per step for the
clean estimate, and the unguided synthesis reuses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffguard.detector import Detector
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.jobs import Job
from diffguard.engine.plain import Noise, reconstruct
from diffguard.images import pixel_key
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.items import Item
from diffguard.methods.recipes import recipe_of


class TwoPassGuidance(ClassifierGuidance):
    """Classifier guidance that predicts the noise of each state a second time."""

    def gradient(
        self, denoiser: Any, x: Tensor, noise: Tensor, t: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        """The guidance gradient of states `(N, …)`; see the base class."""
        noise = Noise(denoiser, -1)(x, t.to(x.device))
        return super().gradient(denoiser, x, noise, t, *args, **options)


@torch.no_grad()
def score_plainly(detector: Detector, items: Sequence[Item]) -> list[dict[str, float]]:
    """Score images with classifier guidance, one at a time.

    Args:
        detector: With classifier guidance.
        items: Images of the working size.

    Returns:
        The distances of each image, named as in the score table.
    """
    models, recipe = detector.models, recipe_of(detector.models)
    assert isinstance(recipe.guidance, ClassifierGuidance)
    recipe = replace(recipe, guidance=TwoPassGuidance(**vars(recipe.guidance)))
    comparison = DiffGuard(models, recipe).comparison
    scores = []
    for item in items:
        image = item.image.to(detector.device)
        output = models.classify(image.unsqueeze(0), 1, comparison.layers)
        job = Job(image, int(output.logits.argmax()), (pixel_key(item.image),))
        reconstruction = reconstruct(detector.denoiser, recipe, job)
        columns = comparison([reconstruction], output, 1)
        scores.append({name: float(column[0]) for name, column in columns.items()})
    return scores
