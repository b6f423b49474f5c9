"""The pictures that explain scored images: the classifier's evidence, and where the images differ.

The location of a difference is a map over the image: the structure term of DISTS if DISTS decides,
otherwise the distance of the classifier's features at each position of its CAM layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffguard.classifiers.cam import cam_maps, forward_cam, grad_cam, place_maps, scale_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.errors import UserError
from diffguard.methods.items import Scored
from diffguard.methods.models import Models
from diffguard.report.panel import HeatMap, PanelRow
from diffguard.scores.perceptual import DISTS

# Images of a call; the gradients of a large classifier need much memory.
_CALL = 8


def panel_rows(models: Models, images: Sequence[Scored], score: str) -> list[PanelRow]:
    """The panel's row of each image; unreadable images are left out.

    Args:
        models: The networks and settings of the detector.
        images: Scored images; those without a reconstruction get no picture of it.
        score: The score that is shown.
    """
    readable = [image for image in images if image.row.prediction is not None]
    has_maps = _has_maps(models.classifier, readable)
    return [
        row
        for start in range(0, len(readable), _CALL)
        for row in _rows(models, readable[start : start + _CALL], score, has_maps=has_maps)
    ]


def _has_maps(classifier: Classifier, images: Sequence[Scored]) -> bool:
    """Whether the classifier has a layer with spatial positions."""
    if not images:
        return False
    image = images[0].item.image[None].to(next(classifier.parameters()).device)
    try:
        grad_cam(classifier, image, image.new_zeros(1, dtype=torch.int64))
    except UserError:
        return False
    return True


def _rows(
    models: Models, images: Sequence[Scored], score: str, *, has_maps: bool
) -> Iterator[PanelRow]:
    names = models.classifier.class_names
    inputs = torch.stack([image.item.image for image in images]).to(models.device)
    labels = torch.tensor([image.row.prediction for image in images], device=models.device)
    cams: Sequence[Tensor | None] = [None] * len(images)
    if has_maps:
        cams = list(scale_cam(grad_cam(models.classifier, inputs, labels)).cpu())
    locations = _locations(models, images, has_maps=has_maps)
    for image, cam, location in zip(images, cams, locations, strict=True):
        result, row = image.reconstruction, image.row
        mask = None if result is None else result.job.mask
        unguided = None if result is None else result.unguided
        yield PanelRow(
            image=image.item.image.cpu(),
            guided=None if result is None else result.guided.cpu(),
            unguided=None if unguided is None else unguided.cpu(),
            mask=None if mask is None else mask.cpu(),
            dataset=row.dataset,
            prediction=names[int(row.prediction or 0)],
            score=row.scores[score],
            cam=cam,
            location=location,
        )


def _locations(models: Models, images: Sequence[Scored], *, has_maps: bool) -> list[HeatMap | None]:
    """Where each image differs from its guided reconstruction; None without either."""
    pairs = {
        place: (image.item.image.to(models.device), image.reconstruction.guided)
        for place, image in enumerate(images)
        if image.reconstruction is not None
    }
    locations: list[HeatMap | None] = [None] * len(images)
    dists = _dists(models)
    if not pairs or (dists is None and not has_maps):
        return locations
    first, second = (torch.stack(part) for part in zip(*pairs.values(), strict=True))
    if dists is not None:
        name, maps = "DISTS structure", dists.location(first, second)
        maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
    else:
        name, maps = "features", feature_location(models.classifier, first, second)
    for place, values in zip(pairs, maps.clamp(max=1).cpu(), strict=True):
        locations[place] = HeatMap(name, values)
    return locations


def _dists(models: Models) -> DISTS | None:
    """The DISTS network, if the `diffguard` score reads it."""
    if "dists" not in models.settings.distance:
        return None
    function = models.distance("dists").function
    return function if isinstance(function, DISTS) else None


def feature_location(classifier: Classifier, first: Tensor, second: Tensor) -> Tensor:
    """Where the classifier's features of two batches of images differ.

    Args:
        classifier: The protected classifier, with a CAM layer.
        first: `(N, C, H, W)` in [0, 1].
        second: Images of the same shape.

    Returns:
        `(N, H, W)`, bilinear: Euclidean distance of the feature vectors at each position, relative
        to the longest vector of either image; in [0, 2].

    Raises:
        UserError: If the classifier has no CAM layer.
    """
    maps = []
    with torch.inference_mode(mode=False), torch.no_grad():
        for images in (first, second):
            # A clone made outside inference mode can be marked for gradients.
            _, activation = forward_cam(classifier, images.detach().clone())
            maps.append(cam_maps(classifier, activation).float())
    longest = torch.stack(maps).norm(dim=2).amax((0, 2, 3)).view(-1, 1, 1, 1)
    distance = (maps[0] - maps[1]).norm(dim=1, keepdim=True) / longest.clamp(min=1e-12)
    return place_maps(classifier, distance, (first.shape[-2], first.shape[-1])).squeeze(1)
