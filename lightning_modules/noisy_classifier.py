"""Training of a classifier of noisy images, for the paper's ablation of Clean Grad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.classifiers.small_cnn import TimedCNN
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
        self.network.compile(dynamic=False)

    def run_network(self, batch: Mapping[str, Any]) -> None:
        """Classify the images at the lowest noise level."""
        self._loss(batch, torch.zeros(len(batch["label"]), dtype=torch.int64))

    def training_step(self, batch: dict[str, Any], _batch_idx: int) -> Tensor:
        """Cross-entropy at random timesteps."""
        loss = self._random_loss(batch)
        self.log_mean("train_loss", loss.detach(), len(batch["label"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Cross-entropy, with the same noise and timesteps at every epoch."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            loss = self._random_loss(batch)
        self.log_mean("val_loss", loss, len(batch["label"]))

    def _random_loss(self, batch: Mapping[str, Any]) -> Tensor:
        return self._loss(batch, torch.randint(self.timesteps, (len(batch["label"]),)))

    def _loss(self, batch: Mapping[str, Any], t: Tensor) -> Tensor:
        images = self.noised(batch["image"], t)
        return F.cross_entropy(self.network(images, t.to(images.device)), batch["label"])
