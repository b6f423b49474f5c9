"""The sections of a config that describe training: classifier, diffusion model, trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# The names that `datamodules.augmentation` knows, which this package does not import.
Augmentation = Literal["none", "affine", "flip", "crop_flip"]
# Arguments of other libraries: whatever YAML can say.
Plain = dict[str, int | float | bool | str | list | dict | None]


@dataclass
class ClassifierConfig:
    """The `classifier` section.

    Attributes:
        arch: `small_cnn`, `whitened_cnn`, `torchvision/NAME`, `timm/NAME`, `openood/NAME`
            (`ResNet18_32x32` or `ResNet50`), or the import path of a module class.
        kwargs: Further arguments of its constructor.
        pretrained: Take the weights of torchvision or timm (downloaded where absent); the stage
            `classifier` trains them further.
        ckpt: File with trained weights; the stage is then skipped.
        channels: Channels the network takes; None is `data.channels`.
        size: `[height, width]` the network takes; None is what torchvision, timm or OpenOOD
            publish of it, with `resize`, and that of the images for other networks.
        resize: Side to which images are resized before `size` is cut out of their centre; None
            beside a given `size` resizes to that without a crop.
        interpolation: How images are resized; None is as published, or bilinear.
        mean: Mean per channel; None is as published, or 0.
        std: Standard deviation per channel; None is as published, or 1.
        feature_layer: Layer whose input is the features; None is the last layer.
        cam_layer: Layer for Grad-CAM; None is the last with feature maps, or the first norm of
            the last block where a network ends on tokens.
        max_epochs: Epochs of training.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        optimizer: Optimiser.
        schedule: Course of the learning rate.
        warmup: Share of the steps in which the learning rate rises.
        label_smoothing: Label smoothing.
        val_every: Epochs between validations.
        channels_last: Train in channels-last memory format, which GPUs like.
        compiled: Train a compiled network.
        precision: Lightning's precision in training; None is that of `trainer`.
        augment: Augmentation; None is that of `data`.
        batch_size: Images a batch in training; None is that of `data`.
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
    max_epochs: int = 20
    lr: float = 2e-3
    weight_decay: float = 0.05
    optimizer: Literal["sgd", "adamw"] = "adamw"
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: float = 0.25
    label_smoothing: float = 0.0
    val_every: int = 1
    channels_last: bool = False
    compiled: bool = False
    precision: str | None = None
    augment: Augmentation | None = None
    batch_size: int | None = None


@dataclass
class ModelConfig:
    """The `diffusion.model` section: what a file of weights does not say of its model.

    Attributes:
        image_size: Side in pixels of the images that it was trained on (of the image, for latent
            models too).
        num_head_channels: Channels per attention head.
        num_heads: Number of attention heads, where that is what is fixed.
        new_attention_order: Order of guided-diffusion's 64×64 model in joint projections.
        noise_schedule: Noise levels of guided-diffusion: `cosine` for its 64×64 model.
    """

    image_size: int | None = None
    num_head_channels: int | None = None
    num_heads: int | None = None
    new_attention_order: bool = False
    noise_schedule: Literal["linear", "cosine"] = "linear"


@dataclass
class DiffusionConfig:
    """The `diffusion` section.

    Attributes:
        network: Class in diffusers of a model to train from scratch, `UNet2DModel` or
            `DiTTransformer2DModel`; or the import path of a denoiser class of your own, whose
            arguments are `kwargs` and whose state dict is `ckpt`.
        kwargs: Its config; channels and classes of a model of diffusers are filled in.
        scheduler: Config of its diffusers scheduler: noise levels and prediction type.
        ckpt: A trained model; the stage is then skipped. A folder of diffusers, a hub id, or an
            original file of guided-diffusion, latent diffusion or DiffOOD.
        finetune: A model to start training from, named as `ckpt` is; `network`, `kwargs` and
            `scheduler` are then its own.
        model: What such a file or folder does not say of its model.
        store: What the detector checkpoint holds of it: its `weights`, or a `reference` with a
            hash; `auto` refers to models of more than 100 million weights.
        null_class: Label that means "no label"; None: K of K + 1 classes, or none.
        prompt: What a model with a text encoder is told of a class, with `{name}` in it.
        patch: Side of the squares of pixels that a new model rearranges into channels, which makes
            a pass cheaper; 1 leaves images as they are. A trained model has its own.
        fit: How images reach the network's size.
        antialias: Whether `resize` low-passes when it shrinks.
        slice_size: Images that pass a latent model's autoencoder at once, 1 or a multiple of 8.
        max_epochs: Epochs of training.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        schedule: Course of the learning rate.
        warmup: Share of the steps in which the learning rate rises.
        ema_decay: Decay of the averaged weights.
        label_dropout: Share of labels that are dropped in training, for classifier-free guidance.
        loss_weighting: Weights of the noise levels in the loss.
        min_snr_gamma: The cut of `min_snr`.
        betas: Decay rates of AdamW's two moments.
        channels_last: Train in channels-last memory format, which GPUs like.
        compiled: Train a compiled network.
        precision: Lightning's precision in training; None is that of `trainer`.
        augment: Augmentation; None is that of `data`.
        batch_size: Images a batch in training; None is that of `data`.
        val_every: Epochs between validations.
        sample_every: Epochs between sample grids; 0 for none.
        lora_rank: Fine-tuning: rank of low-rank adapters that are trained instead of the weights;
            0 trains all weights.
        lora_alpha: Scale of the adapters; None is the rank.
        lora_targets: Ends of the names of the layers that get an adapter.
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
    prompt: str = "a photo of a {name}"
    patch: int = 1
    fit: Literal["resize", "pad"] = "resize"
    antialias: bool = True
    slice_size: int = 8
    max_epochs: int = 50
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: float = 0.1
    ema_decay: float = 0.999
    label_dropout: float = 0.1
    loss_weighting: Literal["none", "min_snr"] = "none"
    min_snr_gamma: float = 5.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    channels_last: bool = False
    compiled: bool = False
    precision: str | None = None
    augment: Augmentation | None = None
    batch_size: int | None = None
    val_every: int = 5
    sample_every: int = 10
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass
class NoisyClassifierConfig:
    """The `noisy_classifier` section: a classifier of noisy images, for the paper's ablation.

    Attributes:
        width: Channels of its first stage.
        max_epochs: Epochs of training.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        val_every: Epochs between validations.
    """

    width: int = 16
    max_epochs: int = 30
    lr: float = 2e-3
    weight_decay: float = 0.01
    val_every: int = 5


StageConfig = ClassifierConfig | DiffusionConfig | NoisyClassifierConfig
