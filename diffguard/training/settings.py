"""Hyper-parameters of training. Each one is declared here, with its only default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from diffguard.errors import UserError

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["one_cycle", "cosine", "constant"]
LossWeighting = Literal["none", "min_snr"]
BatchMix = Literal["none", "mixup", "cutmix"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the training stages have in common.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay of AdamW, or the L2 penalty of SGD.
        warmup: Share of the steps in [0, 1) during which the learning rate rises.
        optimizer: `adamw`, or `sgd` with Nesterov momentum 0.9.
        norm_bias_lr_factor: Factor of the learning rate of the biases of batch normalization, at
            least 1; with SGD, large factors such as 64 speed up short trainings (Jordan, 2024).
            Weight decay shrinks them by the same share per step as it shrinks the weights.
        betas: AdamW's decay rates of the two moments, each in [0, 1).
        schedule: Learning rate over the optimizer's steps: `one_cycle` (cosine up, cosine down to
            almost zero; Smith & Topin, 2019), `cosine` (linear warm-up, cosine down to zero) or
            `constant` (after a linear warm-up).
        channels_last: Train in channels-last memory format, which GPUs prefer.
        compiled: Train compiled networks; validation does not use the compiled versions.

    Raises:
        UserError: For a value outside its range.
    """

    stage: ClassVar[str]

    lr: float
    weight_decay: float
    warmup: float
    optimizer: OptimizerName = "adamw"
    norm_bias_lr_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: ScheduleName = "one_cycle"
    channels_last: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        self.require("lr", 0 < self.lr < math.inf, "positive")
        self.require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self.require("warmup", 0 <= self.warmup < 1, "a share of the steps in [0, 1)")
        self.require("optimizer", self.optimizer in get_args(OptimizerName), "adamw or sgd")
        factor = self.norm_bias_lr_factor
        self.require("norm_bias_lr_factor", 1 <= factor < math.inf, "at least 1")
        are_rates = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        self.require("betas", are_rates, "two numbers in [0, 1)")
        schedules = get_args(ScheduleName)
        self.require("schedule", self.schedule in schedules, "one_cycle, cosine or constant")

    @property
    def rate_is_constant(self) -> bool:
        """Whether the learning rate never changes, so that the length of training is not needed."""
        return self.schedule == "constant" and self.warmup == 0

    def require(self, name: str, is_valid: bool, expected: str) -> None:
        """Check a setting.

        Raises:
            UserError: If the value is not valid.
        """
        if not is_valid:
            value = getattr(self, name)
            raise UserError(f"{self.stage}.{name} must be {expected}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(TrainingSettings):
    """Training of the protected classifier.

    Attributes:
        label_smoothing: Probability mass in [0, 1) that is spread over all classes in training.
        batch_mix: Mixes the images of each batch with each other, and their labels in the same
            proportions: `mixup` (Zhang et al., 2018), `cutmix` (Yun et al., 2019) or `none`.
    """

    stage: ClassVar[str] = "classifier"

    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.25
    label_smoothing: float = 0.0
    batch_mix: BatchMix = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        mixes = get_args(BatchMix)
        self.require("batch_mix", self.batch_mix in mixes, "none, mixup or cutmix")


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(TrainingSettings):
    r"""Training of the diffusion model.

    Attributes:
        ema_decay: Largest decay of the averaged weights, in [0, 1); see `EMA`.
        label_dropout: Share of the labels, in [0, 1), that training replaces by "no label", as
            classifier-free guidance needs (Ho & Salimans, 2022). Models without classes ignore it.
        loss_weighting: Weights of the noise levels in the loss: `none` (all 1), or `min_snr` (Hang
            et al., 2023).
        min_snr_gamma: The cutoff γ of `min_snr`.
    """

    stage: ClassVar[str] = "diffusion"

    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.999
    label_dropout: float = 0.1
    loss_weighting: LossWeighting = "none"
    min_snr_gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self.require("label_dropout", 0 <= self.label_dropout < 1, "a share in [0, 1)")
        weightings = get_args(LossWeighting)
        self.require("loss_weighting", self.loss_weighting in weightings, "none or min_snr")
        self.require("min_snr_gamma", 0 < self.min_snr_gamma < math.inf, "positive")


@dataclass(frozen=True, kw_only=True)
class NoisyClassifierTraining(TrainingSettings):
    """Training of a classifier of noisy images, for the paper's ablation."""

    stage: ClassVar[str] = "noisy_classifier"

    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.2
