"""Classifier guidance of a batch whose samples are at different steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.diffusion.crops import Reduction, draw_boxes, place_boxes
from diffguard.diffusion.guidance import blend_clean, classifier_gradient
from diffguard.engine.program import Viewer
from diffguard.randomness import image_generator

# Most pixels in a classifier call of several crops, 50 images of 224: small classifiers are faster
# with all crops at once, but the memory of the gradient grows with the pixels.
_MOST_PIXELS = 50 * 224**2

# `(images, t) -> logits`; a classifier of clean images ignores t.
TimedClassifier = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class ClassifierGuidance:
    """Guidance by the gradient of a classifier: Clean Grad, with random crops.

    Attributes:
        classify: `(images (N, C, h, w), t (N,)) -> logits (N, K)`.
        scale: Guidance scale.
        blend: Show the classifier the blend with the clean estimate; otherwise the state itself.
        crops: Crops per step; 0 shows the whole image.
        reduction: `sum` or `mean` over the crops.
        shared_crops: All images see the same crops; otherwise crops depend on image and step.
        seed: Seed of the crops.
        crop_size: Smallest side of a crop, and the side to which crops are resized.
        output_size: Side of a second resize for the classifier; None for no second resize.
        input_size: Side to which `classify` itself resizes its input, if it does.
    """

    classify: TimedClassifier
    scale: float
    blend: bool
    crops: int
    reduction: Reduction
    shared_crops: bool
    seed: int
    crop_size: int | None = None
    output_size: int | None = None
    input_size: int | None = None
    _stream: dict[tuple[int, ...], tuple[torch.Generator, list[Tensor]]] = field(
        default_factory=dict, repr=False
    )

    _sizes: dict[torch.Size, torch.Size] = field(default_factory=dict, repr=False)

    @property
    def draws_crops(self) -> bool:
        """Whether the random crops depend on the image."""
        return self.crops > 0 and not self.shared_crops

    def gradient(
        self,
        denoiser: Viewer,
        x: Tensor,
        noise: Tensor,
        t: Tensor,
        alpha: Tensor,
        *,
        labels: Tensor,
        keys: Sequence[tuple[str, ...]],
        steps: Sequence[int],
        batch_size: int,
    ) -> Tensor:
        """The guidance gradient of each sample at its own step.

        Args:
            denoiser: Shows states as the images that the classifier sees.
            x: `(N, …)` states.
            noise: `(N, …)` predicted noise, not clipped.
            t: `(N,)` original timesteps, on the CPU like the arguments below.
            alpha: `(N,)` levels of the states.
            labels: `(N,)`, -1 for rows that are not guided.
            keys: Identifies each image; its random crops depend on it.
            steps: Synthesis steps that each sample has made.
            batch_size: Images of each classifier call, at least N; the rest is padding. A call
                takes one or several crops of each image.

        Returns:
            `(N, …)`.
        """
        has_label = labels >= 0
        if not bool(has_label.any()):
            return torch.zeros_like(x)
        if not bool(has_label.all()):
            gradient = torch.zeros_like(x)
            rows = torch.nonzero(has_label).flatten().tolist()
            gradient[rows] = self.gradient(
                denoiser, x[rows], noise[rows], t[rows], alpha[rows],
                labels=labels[rows], keys=[keys[row] for row in rows],
                steps=[steps[row] for row in rows], batch_size=batch_size,
            )  # fmt: skip
            return gradient
        u = blend_clean(x, noise, alpha, blend=self.blend)
        boxes = None
        if self.crops:
            boxes = padded(self.boxes(self._shown_size(denoiser, u), keys, steps), batch_size)
        times = padded(t, batch_size).to(u.device, non_blocking=True)
        return classifier_gradient(
            lambda images: self.classify(images, times.repeat(len(images) // batch_size)),
            padded(u, batch_size),
            padded(labels, batch_size),
            self.scale,
            boxes=boxes,
            crop_size=self.crop_size,
            output_size=self.output_size,
            crops_at_once=self._crops_at_once(batch_size),
            rows_at_once=getattr(denoiser, "slice_size", None),
            reduction=self.reduction,
            to_image=denoiser.preview,
        )[: len(u)]

    def _shown_size(self, denoiser: Viewer, u: Tensor) -> torch.Size:
        """Height and width of the images of states; computed once, because it may run a decoder."""
        if u.shape[1:] not in self._sizes:
            self._sizes[u.shape[1:]] = denoiser.preview(u[:1]).shape[-2:]
        return self._sizes[u.shape[1:]]

    def _crops_at_once(self, batch_size: int) -> int:
        side = max(self.input_size or 1, self.output_size or self.crop_size or 1)
        return max(1, _MOST_PIXELS // (batch_size * side**2))

    def boxes(
        self,
        size: tuple[int, int] | torch.Size,
        keys: Sequence[tuple[str, ...]],
        steps: Sequence[int],
    ) -> Tensor:
        """The crops `(N, M, 3)` of N images of `size` at synthesis steps counted from 0."""
        smallest = self.crop_size or min(size)
        if self.shared_crops:
            return torch.stack([self._shared_boxes(size, smallest, step) for step in steps])
        draws = [
            torch.rand(
                self.crops,
                3,
                generator=image_generator(self.seed, *key, "crops", step),
                dtype=torch.float64,
            )
            for key, step in zip(keys, steps, strict=True)
        ]
        return place_boxes(torch.stack(draws), size, smallest)

    def _shared_boxes(self, size: tuple[int, int] | torch.Size, smallest: int, step: int) -> Tensor:
        # All images share one stream of draws.
        generator, boxes = self._stream.setdefault(
            tuple(size), (torch.Generator().manual_seed(self.seed), [])
        )
        while len(boxes) <= step:
            boxes.append(draw_boxes(generator, self.crops, size, smallest))
        return boxes[step]
