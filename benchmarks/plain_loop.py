"""The authors' program as a baseline: `engine/plain.py` with its extra passes.

The images of a batch are inverted together until the last of them has stopped. Then each image is a
batch of one: the guided synthesis makes a second network pass per step for the clean estimate, and
the unguided synthesis reuses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffguard.detector import Detector
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.early_stop import should_stop
from diffguard.diffusion.path import Path
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.jobs import Job
from diffguard.engine.plain import Noise, synthesize_both
from diffguard.engine.recipe import Recipe
from diffguard.images import pixel_key
from diffguard.methods.comparison import Comparison
from diffguard.methods.items import Item
from diffguard.methods.recipes import recipe_of
from diffguard.scores.distances import Distance, Views


class TwoPassGuidance(ClassifierGuidance):
    """Classifier guidance that predicts the noise of each state a second time."""

    def gradient(
        self, denoiser: Denoiser, x: Tensor, noise: Tensor, t: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        """The guidance gradient of states `(N, …)`; see the base class."""
        noise = Noise(denoiser, -1)(x, t.to(x.device))
        return super().gradient(denoiser, x, noise, t, *args, **options)


@torch.no_grad()
def score_plainly(detector: Detector, items: Sequence[Item]) -> list[dict[str, float]]:
    """Score a batch of images with classifier guidance and adaptive early stop.

    Args:
        detector: With classifier guidance and an early stop.
        items: One batch of images of the working size.

    Returns:
        The distances of each image, named as in the score table.
    """
    denoiser, recipe = detector.denoiser, recipe_of(detector.models)
    assert isinstance(recipe.guidance, ClassifierGuidance)
    recipe = replace(recipe, guidance=TwoPassGuidance(**vars(recipe.guidance)))
    images = torch.stack([item.image for item in items]).to(detector.device)
    labels = detector.classifier(images).argmax(1).tolist()
    paths, stops = _invert(detector, recipe, images)
    scores = []
    for item, image, label, path, stop in zip(items, images, labels, paths, stops, strict=True):
        job = Job(image, label, (pixel_key(item.image),))
        states = synthesize_both(Noise(denoiser, label), recipe, job, path, stop)
        guided, unguided = (None if s is None else denoiser.decode(s) for s in states)
        scores.append(_distances(detector, image.unsqueeze(0), guided, unguided))
    return scores


def _invert(detector: Detector, recipe: Recipe, images: Tensor) -> tuple[list[Path], list[int]]:
    denoiser, sampler = detector.denoiser, recipe.sampler
    clean = denoiser.encode(images)
    path = Path(sampler.solver, sampler.plan, clean, sampler.clip)
    paths = [path] * len(images)
    stops = [-1] * len(images)
    thresholds = [threshold for _, threshold in recipe.qualities]
    null = denoiser.null_class

    def noise(x: Tensor, t: Tensor) -> Tensor:
        return denoiser.predict_noise(x, t, None if null is None else torch.full_like(t, null))

    for step, state in enumerate(path.invert(noise, recipe.max_steps)):
        noisy, image = denoiser.preview(state), denoiser.preview(clean)
        qualities = torch.stack([quality(noisy, image) for quality, _ in recipe.qualities])
        last = step + 1 == recipe.max_steps
        for n, stop in enumerate(should_stop(qualities, thresholds).tolist()):
            if stops[n] < 0 and (stop or last):
                row = slice(n, n + 1)
                memory = None if path.memory is None else path.memory[:, row]
                paths[n], stops[n] = replace(path, x=state[row], memory=memory), step
        if min(stops) >= 0:
            break
    return paths, stops


def _distances(
    detector: Detector, image: Tensor, guided: Tensor, unguided: Tensor | None
) -> dict[str, float]:
    """The distances of one image `(1, C, H, W)` and its reconstructions."""
    comparison = Comparison(detector.models)
    unguided_distances = comparison.unguided_distances
    distances = [*comparison.distances.values(), *unguided_distances.values()]
    source, target = _view(detector, image, distances), _view(detector, guided, distances)
    scores = {
        f"diffguard/{name}": float(distance(source, target))
        for name, distance in comparison.distances.items()
    }
    if unguided is not None:
        source = _view(detector, unguided, list(unguided_distances.values()))
        for name, distance in unguided_distances.items():
            scores[f"diffguard/unguided/{name}"] = float(distance(source, target))
    return scores


def _view(detector: Detector, images: Tensor, distances: Sequence[Distance]) -> Views:
    if all(distance.needs == "images" for distance in distances):
        return Views(images)
    layers = Comparison(detector.models).layers
    output = detector.classifier.forward_features(images, layers)
    return Views(images, output.logits, output.features, output.layers)
