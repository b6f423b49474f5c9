"""Jobs for the engine: images with the labels and masks that guide them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.engine.jobs import Job
from diffguard.images import pixel_key
from diffguard.methods.items import Item
from diffguard.methods.models import Models
from diffguard.randomness import image_generator
from diffguard.settings.guidance import ClassifierFreeSettings


def jobs_of(
    models: Models,
    items: Sequence[Item],
    images: Tensor,
    predictions: Sequence[int],
    batch_size: int,
    *,
    is_random: bool,
) -> list[Job]:
    """The jobs of images.

    Args:
        models: The networks and settings.
        items: At most `batch_size` items.
        images: `(N, C, H, W)`, their images on the device.
        predictions: Their predicted classes.
        batch_size: Rows of every network call.
        is_random: Whether crops or noise of their own are drawn for them.
    """
    labels = [_label(models, item, y) for item, y in zip(items, predictions, strict=True)]
    masks: Sequence[Tensor | None] = [None] * len(items)
    guidance = models.settings.guidance
    cut = guidance.cam_cut if isinstance(guidance, ClassifierFreeSettings) else None
    if cut is not None:
        target = padded(torch.tensor(labels, device=images.device), batch_size)
        cam = grad_cam(models.classifier, padded(images, batch_size), target)
        masks = list(cam_mask(scale_cam(cam[: len(items)]), cut))
    return [
        Job(image, label, (pixel_key(item.image),) if is_random else (), mask)
        for item, image, label, mask in zip(items, images, labels, masks, strict=True)
    ]


def _label(models: Models, item: Item, prediction: int) -> int:
    """The label that guides an item."""
    if models.settings.label == "prediction":
        return prediction
    if item.label >= 0:
        return item.label
    generator = image_generator(models.seed, pixel_key(item.image), "oracle")
    return int(torch.randint(models.classifier.num_classes, (), generator=generator))
