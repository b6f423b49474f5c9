"""Training of a classifier of noisy images, for the paper's ablation of Clean Grad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.diffusion.denoiser import Denoiser
from lightning_modules.base import TrainingModule


class NoisyClassifierModule(TrainingModule):
    """Fit a time-conditional classifier to states at all noise levels, by cross-entropy.

    It logs `noisy_classifier/train_loss` and `noisy_classifier/val_loss` once an epoch.

    Args:
        network: The classifier.
        denoiser: The diffusion model whose states and noise levels it reads.
        lr: See `TrainingModule`, as for the other arguments.
        weight_decay: See `TrainingModule`.
        seed: See `TrainingModule`.
    """

    stage = "noisy_classifier"

    def __init__(
        self,
        network: TimedCNN,
        denoiser: Denoiser,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            optimizer="adamw",
            schedule="one_cycle",
            warmup=0.2,
            channels_last=False,
            seed=seed,
        )
        self.network = network
        # Not a part of this module: it is not trained and not in its checkpoints.
        self._denoiser = [denoiser]

    def on_fit_start(self) -> None:
        """Bring the denoiser to the device, too."""
        super().on_fit_start()
        self._denoiser[0].to(self.device)

    def compile_networks(self) -> None:
        """Compile the network."""
        self.network.compile(dynamic=False)

    def run_network(self, batch: Mapping[str, Any]) -> None:
        """Classify the images at the lowest level of noise."""
        self._loss(batch, torch.zeros(len(batch["label"]), dtype=torch.int64), None)

    def training_step(self, batch: dict[str, Any], _batch_idx: int) -> Tensor:
        """Cross-entropy at random timesteps."""
        t = torch.randint(len(self._denoiser[0].schedule), (len(batch["label"]),))
        loss = self._loss(batch, t, None)
        self.log_mean("train_loss", loss.detach(), len(t))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Cross-entropy, the same noise and timesteps at every epoch."""
        generator = torch.Generator().manual_seed(batch_idx)
        steps = len(self._denoiser[0].schedule)
        t = torch.randint(steps, (len(batch["label"]),), generator=generator)
        self.log_mean("val_loss", self._loss(batch, t, generator), len(t))

    def _loss(
        self, batch: Mapping[str, Any], t: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        denoiser = self._denoiser[0]
        with torch.no_grad():
            z = denoiser.encode(batch["image"])
            noise = torch.randn(z.shape, generator=generator).to(z)
            noised = denoiser.preview(denoiser.schedule.add_noise(z, noise, t))
        return F.cross_entropy(self.network(noised, t.to(z.device)), batch["label"])
