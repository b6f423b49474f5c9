"""DiffGuard as one would write it down, with the steps of the authors' program, to compare with.

The images of a batch are inverted together until the last of them has stopped. Everything after
that has a batch of one: a synthesis towards the label, in which the guidance makes a second network
pass of its own for the clean estimate, and a synthesis without guidance. The crops of an image are
shown in one call. With `together` the two syntheses of an image share their calls, of two rows, as
in the authors' program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.detector import Detector
from diffguard.diffusion.ddim import invert, synthesize
from diffguard.diffusion.early_stop import should_stop
from diffguard.diffusion.guidance import blend_clean, classifier_gradient
from diffguard.engine.jobs import Recipe
from diffguard.images import pixel_key
from diffguard.methods.items import Item
from diffguard.scores.distances import Distance, Views


@torch.no_grad()
def score_plainly(
    detector: Detector, items: Sequence[Item], *, together: bool = False
) -> list[dict[str, float]]:
    """Score a batch of images with classifier guidance and adaptive early stop.

    Args:
        detector: With `guidance.kind = "classifier"` and an early stop.
        items: One batch of images of the working size.
        together: Make the guided and the unguided synthesis in calls of two rows.

    Returns:
        The distances of each image, as the score table names them.
    """
    images = torch.stack([item.image for item in items]).to(detector.device)
    labels = detector.classifier(images).argmax(1).cpu()
    recipe = detector.recipe()
    latents, stops = _invert(detector, recipe, images)
    return [
        _finish(
            detector,
            recipe,
            item,
            images[n : n + 1],
            labels[n : n + 1],
            latents[n],
            stops[n],
            together=together,
        )
        for n, item in enumerate(items)
    ]


def _invert(detector: Detector, recipe: Recipe, images: Tensor) -> tuple[list[Tensor], list[int]]:
    denoiser = detector.denoiser
    clean = denoiser.encode(images)
    latents: list[Tensor] = [clean] * len(images)
    stops = [-1] * len(images)
    thresholds = [threshold for _, threshold in recipe.qualities]
    states = invert(detector.null_noise, clean, recipe.plan, recipe.max_steps, clip=recipe.clip)
    for step, state in enumerate(states):
        seen, before = denoiser.preview(state), denoiser.preview(clean)
        qualities = torch.stack([quality(seen, before) for quality, _ in recipe.qualities])
        last = step + 1 == recipe.max_steps
        for n, stop in enumerate(should_stop(qualities, thresholds).tolist()):
            if stops[n] < 0 and (stop or last):
                latents[n], stops[n] = state[n : n + 1], step
        if min(stops) >= 0:
            break
    return latents, stops


def _finish(
    detector: Detector,
    recipe: Recipe,
    item: Item,
    image: Tensor,
    label: Tensor,
    latent: Tensor,
    stop: int,
    *,
    together: bool,
) -> dict[str, float]:
    denoiser, steering, plan = detector.denoiser, recipe.steering, recipe.plan
    if steering is None:
        raise ValueError("the plain loop knows classifier guidance only")
    start = int(plan.start_index(torch.tensor(stop), recipe.extra_start, recipe.skip))

    def guide(states: Tensor, _noise: Tensor, i: int) -> Tensor:
        x = states[:1]
        t, alpha, _ = plan.synthesis(torch.tensor([i]))
        noise = detector.null_noise(x, t.to(x.device))  # the second pass
        u = blend_clean(x, noise, alpha, blend=steering.blend)
        boxes = None
        if steering.crops:
            size = denoiser.preview(u).shape[-2:]
            boxes = steering.boxes(size, [(pixel_key(item.image),)], [start - i])
        gradient = torch.zeros_like(states)
        gradient[:1] = classifier_gradient(
            lambda views: steering.classify(views, t), u, label, steering.scale,
            boxes=boxes, crop_size=steering.crop_size, reduction=steering.reduction,
            to_image=denoiser.preview,
        )  # fmt: skip
        return gradient

    noise, both = detector.null_noise, together and bool(detector.unguided_distances)
    states = torch.cat([latent, latent]) if both else latent
    *_, states = synthesize(noise, states, plan, start, clip=recipe.clip, guide=guide)
    guided, unguided = states[:1], states[1:]
    compared = [*detector.distances.values(), *detector.unguided_distances.values()]
    source = _view(detector, image, compared)
    found = _view(detector, denoiser.decode(guided), compared)
    scores = {
        f"diffguard/{name}": float(distance(source, found))
        for name, distance in detector.distances.items()
    }
    if detector.unguided_distances:
        if not both:
            *_, unguided = synthesize(noise, latent, plan, start, clip=recipe.clip)
        compared = list(detector.unguided_distances.values())
        plain = _view(detector, denoiser.decode(unguided), compared)
        for name, distance in detector.unguided_distances.items():
            scores[f"diffguard/unguided/{name}"] = float(distance(plain, found))
    return scores


def _view(detector: Detector, images: Tensor, distances: Sequence[Distance]) -> Views:
    if all(distance.needs == "images" for distance in distances):
        return Views(images)
    output = detector.classifier.forward_features(images, detector.layers)
    return Views(images, output.logits, output.features, output.layers)
