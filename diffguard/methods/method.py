"""What a stream asks of a detection method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.diffusion.denoiser import Denoiser
from diffguard.engine.jobs import Job
from diffguard.engine.recipe import Recipe, Reconstruction
from diffguard.methods.items import Item


class Method(Protocol):
    """A method that reconstructs images and compares them with their reconstructions."""

    @property
    def denoiser(self) -> Denoiser:
        """The diffusion model."""

    @property
    def device(self) -> torch.device:
        """The device of the classifier's weights."""

    def recipe(self) -> Recipe:
        """How images are reconstructed."""

    def classify(self, images: Tensor, batch_size: int) -> ClassifierOutput:
        """The classifier's output for images `(N, C, H, W)` in [0, 1]."""

    def jobs(
        self, items: Sequence[Item], images: Tensor, predictions: Sequence[int], batch_size: int
    ) -> list[Job]:
        """The images to reconstruct, with their labels and masks."""

    def compare(
        self, reconstructions: Sequence[Reconstruction], output: ClassifierOutput, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Name -> scores `(N,)` of images, higher = more OOD."""
