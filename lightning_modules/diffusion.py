"""Training of the diffusion model, by denoising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers.models.embeddings import LabelEmbedding
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn import ModuleList
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.latent import LatentDenoiser
from diffguard.engine.acceleration import accelerate
from diffguard.errors import UserError
from diffguard.inputs.batch_parts import batch_images, check_classes, images_and_labels
from diffguard.training.denoising import denoising_losses, loss_weights, spread_timesteps
from diffguard.training.ema import EMA
from diffguard.training.settings import DiffusionTraining
from lightning_modules.base import TrainingModule

_DEFAULTS = DiffusionTraining()
_NOISE_LEVELS = 5


class DiffusionModule(TrainingModule):
    """Fit a diffusion model and the moving average of its weights.

    It logs `diffusion/train_loss` and `diffusion/val_loss` once an epoch. The validation loss is
    that of the averaged weights, on fixed noise and timesteps. `diffusion/loss_at_noise/1_of_5` to
    `5_of_5` are its means in five equal parts of the schedule, from the least noise to the most.

    A test logs the same loss of the first test loader as `diffusion/test_loss`. A batch is a pair
    of images and labels, or a mapping with `image` and `label`; images are in [0, 1]. A model
    without classes needs no labels.

    Args:
        denoiser: The model, with or without classes.
        settings: The hyper-parameters.
        seed: Seed of the run, at least 0.

    Raises:
        UserError: For label dropout with a model that has classes but no null class.
    """

    settings: DiffusionTraining

    def __init__(
        self,
        denoiser: DiffusersDenoiser,
        settings: DiffusionTraining = _DEFAULTS,
        seed: int = 0,
    ) -> None:
        super().__init__(settings, seed)
        has_classes = denoiser.num_classes is not None
        if settings.label_dropout and has_classes and denoiser.null_class is None:
            raise UserError(
                f"diffusion.label_dropout is {settings.label_dropout:g}, but the model has no "
                "class that means 'no label': give it one class more, or set "
                "diffusion.label_dropout to 0"
            )
        for module in denoiser.network.modules():
            if isinstance(module, LabelEmbedding):
                # The blocks of DiT would drop labels a second time, each block different ones.
                module.dropout_prob = 0.0
        if isinstance(denoiser, LatentDenoiser):
            denoiser.freeze_first_stage()
        self.denoiser = denoiser
        # `from_pretrained` of diffusers returns networks in evaluation mode.
        self.train()
        self.ema = EMA(denoiser, settings.ema_decay)
        self.weights = loss_weights(
            denoiser.schedule, settings.loss_weighting, settings.min_snr_gamma
        )

        self.losses_by_noise = ModuleList(MeanMetric() for _ in range(_NOISE_LEVELS))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out weights that are not trained: they come from the model being fine-tuned."""
        for name in self._frozen():
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weights that are not trained back in."""
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"] = {**self._frozen(), **checkpoint["state_dict"]}

    def _frozen(self) -> dict[str, Tensor]:
        """Weights that are not trained, under their names in the model and in the average."""
        parameters = self.denoiser.named_parameters(remove_duplicate=False)
        frozen = {name: value.data for name, value in parameters if not value.requires_grad}
        parts = ("denoiser", "ema.module")
        return {f"{part}.{name}": value for part in parts for name, value in frozen.items()}

    def ema_denoiser(self) -> DiffusersDenoiser:
        """The model with averaged weights, in evaluation mode.

        It is the average itself, not a copy, so further training changes it.
        """
        return self.ema.module.eval()

    def compile_networks(self) -> None:
        """Compile the network that is trained."""
        accelerate(self.denoiser.network, compile=True)

    def run_network(self, batch: Any) -> None:
        """Denoise the images at the lowest noise level."""
        z, labels = self._encode(batch, batch_idx=0)
        t = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.denoiser.predict_noise(z, t, labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Denoising loss at random timesteps, with some labels dropped."""
        z, labels = self._encode(batch, batch_idx)
        t = spread_timesteps(len(z), len(self.denoiser.schedule))
        if labels is not None:
            labels = self.drop_labels(labels)
        noise = torch.randn_like(z)
        loss = denoising_losses(self.denoiser, z, noise, t, labels, self.weights).mean()
        self.log_mean("train_loss", loss.detach(), len(z))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Denoising loss of the averaged weights, with the same noise and timesteps every epoch."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The loss of validation; loaders after the first hold OOD images."""
        if dataloader_idx == 0:
            self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: Any, batch_idx: int, part: str) -> None:
        z, labels = self._encode(batch, batch_idx)
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(z.shape, generator=generator).to(z)
        # Spread evenly over the schedule, so the loss does not depend on chance.
        levels = (torch.arange(len(z)) + 0.5) * len(self.denoiser.schedule) / len(z)
        t = levels.long()[torch.randperm(len(z), generator=generator)]
        losses = denoising_losses(self.ema.module, z, noise, t, labels, self.weights)
        self.log_mean(f"{part}_loss", losses.mean(), len(z))
        if part == "val":
            self._log_by_noise(losses, t)

    def _log_by_noise(self, losses: Tensor, t: Tensor) -> None:
        """Log the mean loss in each part of the schedule."""
        part = t * _NOISE_LEVELS // len(self.denoiser.schedule)
        for number, metric in enumerate(self.losses_by_noise):
            # A batch without such timesteps counts too, so that all processes log the same names.
            mean = cast(MeanMetric, metric)
            mean.update(losses, (part == number).to(losses))
            self.log_mean(f"loss_at_noise/{number + 1}_of_{_NOISE_LEVELS}", mean, len(t))

    def drop_labels(self, labels: Tensor) -> Tensor:
        """Replace each label `(N,)` by the null class with probability `label_dropout`."""
        if self.denoiser.null_class is None:
            return labels
        drop = torch.rand(len(labels), device=labels.device) < self.settings.label_dropout
        return labels.masked_fill(drop, self.denoiser.null_class)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step the optimizer, then update the average."""
        step = self.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update(self.denoiser, step)

    @torch.no_grad()
    def _encode(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None]:
        """Latents and labels of a batch, with a check of the first batch's labels."""
        if self.denoiser.num_classes is None:
            return self.denoiser.encode(batch_images(batch)), None
        images, labels = images_and_labels(batch)
        if batch_idx == 0:  # each check waits for the GPU
            check_classes(labels, self.denoiser.num_classes, "diffusion model")
        return self.denoiser.encode(images), labels
