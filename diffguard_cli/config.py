"""The sections of a config that describe training: what a model is and how its stage runs.

The hyper-parameters of a section are those of its settings in `diffguard.training.settings`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from datamodules.config import Augmentation
from diffguard.classifiers.small_cnn import WIDTH
from diffguard.denoisers.formats.options import AdmSchedule, CheckpointOptions
from diffguard.denoisers.spec import DiffusionSpec, Fit
from diffguard.errors import UserError
from diffguard.storage.arguments import LARGEST_SIDE
from diffguard.training.settings import (
    ClassifierTraining,
    DiffusionTraining,
    NoisyClassifierTraining,
)

# Arguments of other libraries: any plain value that YAML can express.
Plain = dict[str, int | float | bool | str | list | dict | None]


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """How a stage runs.

    Attributes:
        max_epochs: Epochs of training.
        val_every: Epochs between validations.
        precision: Lightning's precision in training; defaults to `trainer.precision`.
        augment: Augmentation; defaults to `data.augment`.
        batch_size: Images per batch in training; defaults to `data.train_batch_size`.
    """

    max_epochs: int
    val_every: int
    precision: str | None = None
    augment: Augmentation | None = None
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierSource:
    """The protected classifier.

    Attributes:
        arch: `small_cnn`, `whitened_cnn`, `torchvision/NAME`, `timm/NAME`, `openood/NAME`
            (`ResNet18_32x32` or `ResNet50`), or the import path of a module class.
        kwargs: Further arguments of its constructor.
        pretrained: Start from the weights of torchvision or timm, downloaded if absent; the stage
            `classifier` trains them further.
        ckpt: File with trained weights; the stage is then skipped.
        channels: Channels that the network takes; defaults to `data.channels`.
        size: `[height, width]` that the network takes. Defaults, together with `resize`, to what
            torchvision, timm or OpenOOD publish, and to the size of the images for other networks.
        resize: Side to which images are resized before the center of `size` is cut out. Without it,
            a given `size` is reached by resizing alone.
        interpolation: How images are resized; defaults to the published value, or bilinear.
        mean: Mean per channel; defaults to the published values, or 0.
        std: Standard deviation per channel; defaults to the published values, or 1.
        feature_layer: Layer whose input is the features; defaults to the last layer.
        cam_layer: Layer for Grad-CAM; defaults to the last layer with feature maps, or to the first
            norm of the last block if the network ends with tokens.
    """

    arch: str = "small_cnn"
    kwargs: Plain = field(default_factory=dict)
    pretrained: bool = False
    ckpt: str | None = None
    channels: int | None = None
    size: list[int] | None = None
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    feature_layer: str | None = None
    cam_layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ClassifierTraining, StageOptions, ClassifierSource):
    """The `classifier` section."""

    max_epochs: int = 20
    val_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_options(self)
        for name in ("channels", "resize"):
            value = getattr(self, name)
            self.require(name, value is None or value >= 1, "at least 1")
        sides = [side for side in (self.resize, *(self.size or ())) if side is not None]
        if max(sides, default=0) > LARGEST_SIDE:
            raise UserError(
                f"classifier.size and classifier.resize must be at most {LARGEST_SIDE:,} pixels, "
                f"got {max(sides):,}"
            )
        for name in ("size", "mean", "std"):
            self.require(name, getattr(self, name) != [], "a list of values, or left out")
        self.require("mean", all(map(math.isfinite, self.mean or ())), "finite numbers")
        are_positive = all(0 < value < math.inf for value in self.std or ())
        self.require("std", are_positive, "positive numbers")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `diffusion.model` section: what a file of weights does not contain about its model.

    Attributes:
        image_size: Side in pixels of the images it was trained on; also for latent models.
        num_head_channels: Channels per attention head.
        num_heads: Number of attention heads, for models that fix it.
        new_attention_order: Order of joint projections in guided-diffusion's 64×64 model.
        noise_schedule: Noise levels of guided-diffusion; its 64×64 model uses `cosine`.
    """

    image_size: int | None = CheckpointOptions.image_size
    num_head_channels: int | None = CheckpointOptions.num_head_channels
    num_heads: int | None = CheckpointOptions.num_heads
    new_attention_order: bool = CheckpointOptions.new_attention_order
    noise_schedule: AdmSchedule = CheckpointOptions.noise_schedule


@dataclass(frozen=True, kw_only=True)
class DiffusionSource:
    """The diffusion model.

    Attributes:
        network: Class in diffusers of a model to train from scratch, `UNet2DModel` or
            `DiTTransformer2DModel`; or the import path of your own denoiser class, whose arguments
            are `kwargs` and whose state dict is `ckpt`.
        kwargs: Its config; channels and classes of a diffusers model are filled in.
        scheduler: Config of its diffusers scheduler: noise levels and prediction type.
        ckpt: A trained model; the stage is then skipped. A folder of diffusers, a hub id, or an
            original file of guided-diffusion, latent diffusion or DiffOOD.
        finetune: A model to start training from, named like `ckpt`. It brings its own `network`,
            `kwargs` and `scheduler`.
        model: What such a file or folder does not contain about its model.
        store: What the detector checkpoint holds of it: its `weights`, or a `reference` with a
            hash; `auto` refers to models of more than 100 million weights.
        null_class: Label that means "no label"; defaults to class K of K + 1, or to none.
        prompt: Prompt of a class for a model with a text encoder; `{name}` is the class.
        patch: Side of the squares of pixels that a new model rearranges into channels, which makes
            a pass cheaper; 1 leaves images as they are. A trained model has its own.
        fit: How images are brought to the network's size.
        antialias: Whether `resize` applies a low-pass filter when it shrinks images.
        slice_size: Images that pass a latent model's autoencoder at once, 1 or a multiple of 8.
        sample_every: Epochs between sample grids; 0 draws none.
        lora_rank: Fine-tuning: rank of low-rank adapters that are trained instead of the weights;
            0 trains all weights.
        lora_alpha: Scale of the adapters; defaults to the rank.
        lora_targets: Endings of the names of the layers that get an adapter.
    """

    network: str = "UNet2DModel"
    kwargs: Plain = field(default_factory=dict)
    scheduler: Plain = field(
        default_factory=lambda: {"beta_schedule": "linear", "num_train_timesteps": 1000}
    )
    ckpt: str | None = None
    finetune: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    store: Literal["auto", "weights", "reference"] = "auto"
    null_class: int | None = None
    prompt: str = CheckpointOptions.prompt
    patch: int = DiffusionSpec.patch
    fit: Fit = DiffusionSpec.fit
    antialias: bool = DiffusionSpec.antialias
    slice_size: int = DiffusionSpec.slice_size
    sample_every: int = 10
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(DiffusionTraining, StageOptions, DiffusionSource):
    """The `diffusion` section."""

    max_epochs: int = 50
    val_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_options(self)
        self.require("slice_size", self.slice_size >= 1, "at least 1")
        self.require("sample_every", self.sample_every >= 0, "at least 0")
        self.require("lora_rank", self.lora_rank >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True)
class NoisyClassifierConfig(NoisyClassifierTraining, StageOptions):
    """The `noisy_classifier` section: a classifier of noisy images, for the paper's ablation.

    Attributes:
        width: Channels of its first stage.
    """

    max_epochs: int = 30
    val_every: int = 5
    width: int = WIDTH

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_options(self)
        self.require("width", self.width >= 1, "at least 1")


StageConfig = ClassifierConfig | DiffusionConfig | NoisyClassifierConfig


def _check_options(config: StageConfig) -> None:
    """Raise `UserError` for a value outside its range."""
    for name in ("max_epochs", "val_every", "batch_size"):
        value = getattr(config, name)
        config.require(name, value is None or value >= 1, "at least 1")
