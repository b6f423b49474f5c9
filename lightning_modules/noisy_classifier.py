"""Training of a classifier of noisy images, for the paper's ablation of Clean Grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.engine.acceleration import accelerate
from diffguard.inputs.batch_parts import images_and_labels
from diffguard.training.settings import NoisyClassifierTraining
from lightning_modules.base import TrainingModule

_DEFAULTS = NoisyClassifierTraining()


class NoisyClassifierModule(TrainingModule):
    """Fit a time-conditional classifier to images at all noise levels, by cross-entropy.

    It logs `noisy_classifier/train_loss` and `noisy_classifier/val_loss` once an epoch.

    Args:
        network: The classifier.
        noised: Adds noise: images `(N, C, H, W)` in [0, 1] and timesteps `(N,)` -> what the network
            takes. It draws from the CPU's generator.
        timesteps: Number of noise levels.
        settings: The hyper-parameters.
        seed: Seed of the run, at least 0.
    """

    def __init__(
        self,
        network: TimedCNN,
        noised: Callable[[Tensor, Tensor], Tensor],
        timesteps: int,
        settings: NoisyClassifierTraining = _DEFAULTS,
        seed: int = 0,
    ) -> None:
        super().__init__(settings, seed)
        self.network = network
        self.noised, self.timesteps = noised, timesteps

    def compile_networks(self) -> None:
        """Compile the network."""
        accelerate(self.network, compile=True)

    def run_network(self, batch: Any) -> None:
        """Classify the images at the lowest noise level."""
        images, labels = images_and_labels(batch)
        self._loss(images, labels, torch.zeros(len(labels), dtype=torch.int64))

    def training_step(self, batch: Any, _batch_idx: int) -> Tensor:
        """Cross-entropy at random timesteps."""
        images, labels = images_and_labels(batch)
        loss = self._random_loss(images, labels)
        self.log_mean("train_loss", loss.detach(), len(labels))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Cross-entropy, with the same noise and timesteps at every epoch."""
        images, labels = images_and_labels(batch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            loss = self._random_loss(images, labels)
        self.log_mean("val_loss", loss, len(labels))

    def _random_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._loss(images, labels, torch.randint(self.timesteps, (len(labels),)))

    def _loss(self, images: Tensor, labels: Tensor, t: Tensor) -> Tensor:
        noised = self.noised(images, t)
        return F.cross_entropy(self.network(noised, t.to(noised.device)), labels)
