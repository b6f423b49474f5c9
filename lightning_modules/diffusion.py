r"""Training of the diffusion model, by denoising.

$$ L = \mathbb{E}_{x_0, \epsilon, t}\; w_t\, \lVert f(x_t, t, y) - \mathrm{target} \rVert^2 $$

where the target is ε, v or $x_0$, as the model's schedule says (Ho et al., 2020, eq. 14; Salimans &
Ho, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.latent import LatentDenoiser
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from lightning_modules.base import ScheduleName, TrainingModule
from lightning_modules.ema import EMA
from lightning_modules.resumed_state import check_types
from lightning_modules.training_values import check_values

LossWeighting = Literal["none", "min_snr"]


def loss_weights(schedule: NoiseSchedule, weighting: LossWeighting, gamma: float) -> Tensor:
    r"""Weight $w_t$ of each timestep.

    Args:
        schedule: The noise levels, and what the network predicts.
        weighting: `none` (all 1), or `min_snr` (Hang et al., 2023): with
            $\mathrm{SNR} = \bar\alpha / (1 - \bar\alpha)$ the error of the clean image counts
            $\min(\mathrm{SNR}, \gamma)$, whatever is predicted.
        gamma: The cut γ of `min_snr`.

    Returns:
        `(T,)` float32.
    """
    if weighting == "none":
        return torch.ones(len(schedule))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    # Squared errors of x_0, ε and v stand in the ratio 1 : SNR : SNR + 1.
    unit = {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}
    return (snr.clamp(max=gamma) / unit[schedule.prediction_type]).float()


class DiffusionModule(TrainingModule):
    """Fit a diffusion model and the moving average of its weights.

    It logs `diffusion/train_loss` and `diffusion/val_loss` (that of the average, on fixed noise and
    timesteps) once an epoch. The optimiser is AdamW.

    Args:
        denoiser: The model; with classes or without.
        lr: See `TrainingModule`, as for the other arguments not named here.
        weight_decay: See `TrainingModule`.
        betas: See `TrainingModule`.
        schedule: See `TrainingModule`.
        warmup: See `TrainingModule`.
        ema_decay: Largest decay of the average, in [0, 1); see `EMA`.
        label_dropout: Share of the labels, in [0, 1), that training replaces by "no label", so that
            classifier-free guidance can subtract it (Ho & Salimans, 2022). A model without classes
            has none to drop.
        loss_weighting: See `loss_weights`.
        min_snr_gamma: See `loss_weights`.
        channels_last: See `TrainingModule`.
        compiled: See `TrainingModule`.
        seed: See `TrainingModule`.

    Raises:
        UserError: For a value outside its range, or label dropout with a model that has classes but
            no null class.
    """

    stage = "diffusion"

    def __init__(
        self,
        denoiser: DiffusersDenoiser,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.1,
        ema_decay: float = 0.999,
        label_dropout: float = 0.1,
        loss_weighting: LossWeighting = "none",
        min_snr_gamma: float = 5.0,
        channels_last: bool = False,
        compiled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            optimizer="adamw",
            betas=betas,
            schedule=schedule,
            warmup=warmup,
            channels_last=channels_last,
            compiled=compiled,
            seed=seed,
        )
        self.ema_decay, self.label_dropout = ema_decay, label_dropout
        self.loss_weighting, self.min_snr_gamma = loss_weighting, min_snr_gamma
        check_values(
            self.stage,
            {
                "ema_decay": ema_decay,
                "label_dropout": label_dropout,
                "loss_weighting": loss_weighting,
                "min_snr_gamma": min_snr_gamma,
            },
        )
        if label_dropout and denoiser.num_classes is not None and denoiser.null_class is None:
            raise UserError(
                f"diffusion.label_dropout is {label_dropout:g}, but the model has no class that "
                "means 'no label': give it one class more, or set diffusion.label_dropout to 0"
            )
        for module in denoiser.network.modules():
            if isinstance(module, LabelEmbedding):
                # DiT's blocks would drop labels again, each block others.
                module.dropout_prob = 0.0
        if isinstance(denoiser, LatentDenoiser):
            denoiser.freeze_first_stage()
        self.denoiser = denoiser
        # Networks come from diffusers' `from_pretrained` in evaluation mode.
        self.train()
        self.ema = EMA(denoiser, ema_decay)
        self.weights = loss_weights(denoiser.schedule, loss_weighting, min_snr_gamma)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out weights that are not trained: they come from the model that was fine-tuned."""
        super().on_save_checkpoint(checkpoint)
        for name in self._frozen():
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weights that are not trained back in."""
        check_types(checkpoint)
        checkpoint["state_dict"] = {**self._frozen(), **checkpoint["state_dict"]}
        super().on_load_checkpoint(checkpoint)

    def _frozen(self) -> dict[str, Tensor]:
        untrained = {id(p) for p in self.denoiser.parameters() if not p.requires_grad}
        named = self.named_parameters(remove_duplicate=False)
        return {name: value.data for name, value in named if id(value) in untrained}

    def ema_denoiser(self) -> DiffusersDenoiser:
        """The model with averaged weights, in evaluation mode: to sample from and to keep.

        It is the average itself, not a copy: training goes on changing it.
        """
        return self.ema.module.eval()

    def compile_networks(self) -> None:
        """Compile the network in training; the average is not trained."""
        self.denoiser.network.compile(dynamic=False)

    def run_network(self, batch: Mapping[str, Any]) -> None:
        """Denoise the images at the lowest level."""
        z, labels = self._encode(batch)
        t = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.denoiser.predict_noise(z, t, labels)

    def training_step(self, batch: dict[str, Any], _batch_idx: int) -> Tensor:
        """Denoising loss at random timesteps, some labels dropped."""
        z, labels = self._encode(batch)
        t = self.draw_timesteps(len(z))
        if labels is not None:
            labels = self.drop_labels(labels)
        loss = self._denoising_loss(self.denoiser, z, torch.randn_like(z), t, labels)
        self.log_mean("train_loss", loss.detach(), len(z))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Denoising loss of the averaged weights, the same noise and timesteps at every epoch."""
        z, labels = self._encode(batch)
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(z.shape, generator=generator).to(z)
        # Evenly over the schedule, so that no chance of the draw is in the figure.
        levels = (torch.arange(len(z)) + 0.5) * len(self.denoiser.schedule) / len(z)
        t = levels.long()[torch.randperm(len(z), generator=generator)]
        loss = self._denoising_loss(self.ema.module, z, noise, t, labels)
        self.log_mean("val_loss", loss, len(z))

    def draw_timesteps(self, count: int) -> Tensor:
        """Random timesteps `(count,)`, each uniform, together spread evenly over the schedule.

        One in each of `count` equal parts, in random order: less noise in the gradient than
        independent draws (Kingma et al., 2021, I.1). They are drawn on the CPU, so that one seed
        gives the same timesteps on any device.
        """
        places = (torch.arange(count) + torch.rand(count)) / count
        steps = len(self.denoiser.schedule)
        return (places * steps).long().clamp(max=steps - 1)[torch.randperm(count)]

    def drop_labels(self, labels: Tensor) -> Tensor:
        """Replace each label `(N,)` by the null class with probability `label_dropout`."""
        if self.denoiser.null_class is None:
            return labels
        drop = torch.rand(len(labels), device=labels.device) < self.label_dropout
        return labels.masked_fill(drop, self.denoiser.null_class)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step the optimiser, then the average."""
        step = self.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update(self.denoiser, step)

    @torch.no_grad()
    def _encode(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        labels = None if self.denoiser.num_classes is None else batch["label"]
        return self.denoiser.encode(batch["image"]), labels

    def _denoising_loss(
        self,
        denoiser: DiffusersDenoiser,
        z: Tensor,
        noise: Tensor,
        t: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        noised = denoiser.schedule.add_noise(z, noise, t)
        prediction = denoiser.predict(noised, t.to(z.device), labels).float()
        target = denoiser.schedule.training_target(z, noise, t)
        error = F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)
        return (self.weights[t].to(error) * error).mean()
