"""The diffusion model that a config describes or names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.classifiers.weights import load_weights
from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.build import build_denoiser, empty_network, wrap_parts
from diffguard.denoisers.custom import build_own_denoiser, is_own, load_own_weights
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.folder import label_rows
from diffguard.denoisers.formats.hub import local_folder
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.lora import add_lora, merge_lora, save_lora
from diffguard.denoisers.parts import DiffusionParts
from diffguard.denoisers.reference import LARGE, refer
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError, reason_of
from diffguard_cli.config import (
    ClassifierConfig,
    DiffusionConfig,
    ModelConfig,
)
from diffguard_cli.run import Run


@dataclass
class LoadedDiffusion:
    """A trained diffusion model.

    Attributes:
        denoiser: The model, of diffusers or the user's own; a module that follows `Denoiser`.
        spec: What it is.
        reference: What a detector checkpoint keeps instead of its weights; None for the weights.
    """

    denoiser: Any
    spec: DiffusionSpec
    reference: dict[str, Any] | None


def diffusion_spec(config: DiffusionConfig, data: Any) -> DiffusionSpec:
    """What the model to train from scratch is, with a null class beside the data's classes.

    Raises:
        UserError: For another network than these two, classes that do not fit the data's, or images
            whose size or patches do not fit the network.
    """
    if is_own(config.network):
        raise UserError(
            f"diffusion.network {config.network} is a class of yours, which is not trained here: "
            "leave diffusion out of stages, and give its weights in diffusion.ckpt"
        )
    is_dit = config.network == "DiTTransformer2DModel"
    if not is_dit and config.network != "UNet2DModel":
        raise UserError(
            f"diffusion.network {config.network!r} is not known, expected UNet2DModel or "
            "DiTTransformer2DModel, or the import path of a denoiser; others can be named in "
            "diffusion.ckpt"
        )
    channels = data.channels * config.patch**2
    kwargs: dict[str, Any] = {
        "sample_size": _state_size(config, data.image_size),
        "in_channels": channels,
        "out_channels": channels,
        **config.kwargs,
    }
    classes: int | None = data.num_classes
    null: int | None = classes
    if is_dit:
        kwargs.setdefault("num_embeds_ada_norm", classes)
        classes = null = kwargs["num_embeds_ada_norm"]
    else:
        kwargs.setdefault("num_class_embeds", data.num_classes + 1)
        rows = kwargs["num_class_embeds"]
        classes, null = (None, None) if rows is None else label_rows(rows, _options(config, data))
    return DiffusionSpec(
        network=config.network,
        config=kwargs,
        scheduler=dict(config.scheduler),
        image_size=data.image_size,
        image_channels=data.channels,
        num_classes=classes,
        null_class=null,
        fit=config.fit,
        antialias=config.antialias,
        patch=config.patch,
    )


def _state_size(config: DiffusionConfig, image_size: int) -> int:
    """Side of the states of a model to train, where its `kwargs` name no other."""
    if config.patch < 1:
        raise UserError(f"diffusion.patch must be at least 1, got {config.patch:,}")
    if "sample_size" not in config.kwargs and image_size % config.patch:
        raise UserError(
            f"images of {image_size} pixels cannot be cut into patches of diffusion.patch "
            f"{config.patch}: set data.image_size to a multiple of it, or name the side of the "
            "states in diffusion.kwargs.sample_size, to which images are brought"
        )
    return image_size // config.patch


def load_trained(
    run: Run, config: DiffusionConfig, *, same_classes: bool = True
) -> LoadedDiffusion:
    """The diffusion model of this run, or that of `diffusion.ckpt`.

    Args:
        run: The run.
        config: The `diffusion` section.
        same_classes: Whether labels reach the model, so that its classes must be those of the data.

    Raises:
        UserError: Where there is none, or it cannot be loaded.
    """
    if is_own(config.network):
        return _load_own(config, run.data)
    path = config.ckpt or str(run.diffusion_folder)
    if config.ckpt is None and not run.diffusion_folder.is_dir():
        raise UserError(
            f"{run.folder} holds no trained diffusion model: add diffusion to stages, or name a "
            "trained one in diffusion.ckpt"
        )
    # A folder of this run says all of itself.
    own = CheckpointOptions(num_classes=run.data.num_classes)
    options = _options(config, run.data) if config.ckpt else own
    if not same_classes:
        options = replace(options, num_classes=None)
    denoiser, spec = _load(path, config, run.data, options)
    large = config.store == "auto" and denoiser.count_weights() > LARGE
    reference = None
    if large or config.store == "reference":
        reference = refer(path, options, run.folder)
    return LoadedDiffusion(denoiser, spec, reference)


def to_train(run: Run, config: DiffusionConfig) -> tuple[DiffusersDenoiser, DiffusionSpec]:
    """The model to train: from scratch, or one to fine-tune, with adapters where asked for.

    Raises:
        UserError: Where it cannot be built or loaded.
    """
    if config.finetune is None:
        if config.lora_rank:
            raise UserError(
                "diffusion.lora_rank adapts a trained model: name it in diffusion.finetune"
            )
        if config.model != ModelConfig():
            raise UserError(
                "diffusion.model describes a trained model, and none is named: name it in "
                "diffusion.finetune, or describe the one to train in diffusion.kwargs"
            )
        spec = diffusion_spec(config, run.data)
        return build_denoiser(spec), spec
    denoiser, spec = _load(config.finetune, config, run.data, _options(config, run.data))
    if config.lora_rank:
        alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
        add_lora(denoiser, config.lora_rank, alpha, config.lora_targets)
    return denoiser, spec


def keep_trained(
    run: Run, config: DiffusionConfig, denoiser: DiffusersDenoiser, spec: DiffusionSpec
) -> None:
    """Write a trained model as a folder of diffusers; adapters also by themselves."""
    if config.lora_rank:
        save_lora(denoiser, run.lora_folder)
        merge_lora(denoiser)
    source = config.finetune
    text = None if source is None or Path(source).is_file() else local_folder(source)
    save_folder(parts_of(denoiser, spec), run.diffusion_folder, text_from=text)


def _load_own(config: DiffusionConfig, data: Any) -> LoadedDiffusion:
    """A denoiser of the user's own; a detector checkpoint holds its weights, if it has any."""
    if config.store == "reference" or config.model != ModelConfig() or config.patch != 1:
        raise UserError(
            f"diffusion.network {config.network} is a class of yours: its arguments are "
            "diffusion.kwargs, its weights are kept in the detector; leave out diffusion.model, "
            "diffusion.patch and diffusion.store reference"
        )
    denoiser = build_own_denoiser(config.network, config.kwargs, [config.network])
    if config.ckpt is not None:
        load_own_weights(denoiser, config.ckpt, config.network)
    spec = DiffusionSpec(
        network=config.network,
        config=dict(config.kwargs),
        scheduler={},
        image_size=data.image_size,
        image_channels=data.channels,
        num_classes=denoiser.num_classes,
        null_class=denoiser.null_class,
    )
    return LoadedDiffusion(denoiser, spec, reference=None)


def _load(
    path: str, config: DiffusionConfig, data: Any, options: CheckpointOptions
) -> tuple[DiffusersDenoiser, DiffusionSpec]:
    parts = load_diffusion(path, options)
    if config.patch not in (1, parts.patch):
        raise UserError(
            f"diffusion.patch is {config.patch}, but {path} was trained with {parts.patch}: leave "
            "it at 1, a trained model has its own"
        )
    spec = parts.spec(
        image_size=data.image_size,
        image_channels=data.channels,
        fit=config.fit,
        antialias=config.antialias,
        slice_size=config.slice_size,
    )
    return wrap_parts(parts, spec), spec


def parts_of(denoiser: DiffusersDenoiser, spec: DiffusionSpec) -> DiffusionParts:
    """The parts of a trained model, to be written as a folder."""
    modules: dict[str, Any] = denoiser.parts()
    factor = 2 ** (len(spec.autoencoder_config.get("block_out_channels", [0])) - 1)
    return DiffusionParts(
        family="diffusers",
        scheduler=spec.scheduler,
        image_size=denoiser.state_size * factor * spec.patch,
        num_classes=spec.num_classes,
        null_class=spec.null_class,
        patch=spec.patch,
        **modules,
    )


def _options(config: DiffusionConfig, data: Any) -> CheckpointOptions:
    return CheckpointOptions(
        **asdict(config.model),
        num_classes=data.num_classes,
        null_class=config.null_class,
        class_names=tuple(str(name) for name in data.class_names),
        prompt=config.prompt,
    )


def check_network(config: DiffusionConfig, data: Any) -> None:
    """Make sure that a model to train from scratch takes the images, before anything is trained.

    One image passes through it without numbers, on torch's `meta` device.

    Raises:
        UserError: Where it cannot be built, or takes images of other channels or another size.
    """
    spec = diffusion_spec(config, data)
    network = empty_network(spec.network, spec.config)
    _check_sizes(spec)
    parts = DiffusionParts(
        family="diffusers",
        network=network,
        scheduler=spec.scheduler,
        image_size=spec.image_size,
        num_classes=spec.num_classes,
        null_class=spec.null_class,
        patch=spec.patch,
    )
    denoiser = wrap_parts(parts, spec)
    images = torch.zeros(1, data.channels, data.image_size, data.image_size, device="meta")
    zero = torch.zeros(1, dtype=torch.long, device="meta")
    states = denoiser.encode(images)
    try:
        with torch.no_grad():
            output = denoiser.predict(states, zero, None if spec.num_classes is None else zero)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"diffusion.kwargs: {config.network} does not take states {tuple(states.shape[1:])} "
            f"({reason_of(error)}): check in_channels, and that each level can halve sample_size"
        ) from error
    if output.shape != states.shape:
        raise UserError(
            f"diffusion.kwargs: {config.network} gives {tuple(output.shape[1:])} for states of "
            f"{tuple(states.shape[1:])}: out_channels must be in_channels or twice as many, and "
            "patch_size a divisor of sample_size"
        )


def _check_sizes(spec: DiffusionSpec) -> None:
    """What diffusers itself takes without a word."""
    size = spec.config["sample_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(
            f"diffusion.kwargs.sample_size must be a whole number of at least 1, got {size!r:.60}"
        )


def classifier_spec(config: ClassifierConfig, data: Any) -> ClassifierSpec:
    """What the classifier of a config is, in full: libraries may publish other things later."""
    spec = ClassifierSpec(
        arch=config.arch,
        num_classes=data.num_classes,
        kwargs=dict(config.kwargs),
        channels=config.channels or data.channels,
        size=config.size,
        resize=config.resize,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        feature_layer=config.feature_layer,
        cam_layer=config.cam_layer,
        class_names=list(data.class_names),
    )
    return resolve_spec(spec)


def load_classifier(run: Run, config: ClassifierConfig) -> tuple[Classifier, ClassifierSpec]:
    """The classifier of this run, or that of `classifier.ckpt`.

    Raises:
        UserError: Where there is none, or its weights do not fit.
    """
    spec = classifier_spec(config, run.data)
    if config.ckpt is None and config.pretrained and not run.classifier_file.is_file():
        return build_classifier(spec, pretrained=True), spec
    path = Path(config.ckpt) if config.ckpt else run.classifier_file
    if config.ckpt is None and not path.is_file():
        raise UserError(
            f"{run.folder} holds no trained classifier: add classifier to stages, or give its "
            "weights in classifier.ckpt"
        )
    classifier = build_classifier(spec, trusted=[config.arch])
    load_weights(classifier, path, config.arch)
    return classifier, spec
