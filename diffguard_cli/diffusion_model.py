"""The diffusion model that a config names: loaded, to be trained, or written after training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.ood import OODDataModule
from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.build import build_denoiser, wrap_parts
from diffguard.denoisers.custom import build_custom_denoiser, is_import_path, load_custom_weights
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.hub import local_folder
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.lora import add_lora, merge_lora, save_lora
from diffguard.denoisers.parts import DiffusionParts
from diffguard.denoisers.reference import LARGE, refer
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.errors import UserError
from diffguard_cli.config import DiffusionConfig, ModelConfig
from diffguard_cli.diffusion_spec import checkpoint_options, diffusion_spec
from diffguard_cli.run import Run


@dataclass
class LoadedDiffusion:
    """A trained diffusion model.

    Attributes:
        denoiser: The model, a module.
        spec: Its description.
        reference: What a detector checkpoint stores instead of the weights; None to store the
            weights.
    """

    denoiser: Denoiser
    spec: DiffusionSpec
    reference: dict[str, Any] | None


def load_trained(
    run: Run, config: DiffusionConfig, *, same_classes: bool = True
) -> LoadedDiffusion:
    """Load the diffusion model of this run, or of `diffusion.ckpt`.

    Args:
        run: The run.
        config: The `diffusion` section.
        same_classes: Whether the model gets labels, so that its classes must be those of the data.

    Raises:
        UserError: If it does not exist or cannot be loaded.
    """
    if is_import_path(config.network):
        return _load_custom(config, run.data)
    path = config.ckpt or str(run.diffusion_folder)
    if config.ckpt is None and not run.diffusion_folder.is_dir():
        raise UserError(
            f"{run.folder} has no trained diffusion model: add diffusion to stages, or name a "
            "trained one in diffusion.ckpt"
        )
    if config.ckpt:
        options = checkpoint_options(config, run.data)
    else:  # a folder of this run describes itself
        options = CheckpointOptions(num_classes=run.data.num_classes)
    if not same_classes:
        options = replace(options, num_classes=None)
    denoiser, spec = _load(path, config, run.data, options)
    large = config.store == "auto" and denoiser.count_weights() > LARGE
    reference = None
    if large or config.store == "reference":
        reference = refer(path, options, run.folder)
    return LoadedDiffusion(denoiser, spec, reference)


def to_train(run: Run, config: DiffusionConfig) -> tuple[DiffusersDenoiser, DiffusionSpec]:
    """The model to train: from scratch, or to fine-tune, with adapters if they are configured.

    Raises:
        UserError: If it cannot be built or loaded.
    """
    if config.finetune is None:
        if config.lora_rank:
            raise UserError(
                "diffusion.lora_rank adapts a trained model: name it in diffusion.finetune"
            )
        if config.model != ModelConfig():
            raise UserError(
                "diffusion.model describes a trained model, but none is named: name it in "
                "diffusion.finetune, or describe a new model in diffusion.kwargs"
            )
        spec = diffusion_spec(config, run.data)
        return build_denoiser(spec), spec
    denoiser, spec = _load(config.finetune, config, run.data, checkpoint_options(config, run.data))
    if config.lora_rank:
        alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
        add_lora(denoiser, config.lora_rank, alpha, config.lora_targets)
    return denoiser, spec


def planned_spec(
    config: DiffusionConfig, data: OODDataModule, *, same_classes: bool
) -> DiffusionSpec:
    """The spec of the model that a config trains or names; a named one is loaded.

    Args:
        config: The `diffusion` section.
        data: The DataModule.
        same_classes: See `load_trained`.

    Raises:
        UserError: If a named model does not exist or cannot be loaded.
    """
    if is_import_path(config.network):
        return _load_custom(config, data).spec
    source = config.ckpt or config.finetune
    if source is None:
        return diffusion_spec(config, data)
    options = checkpoint_options(config, data)
    if not same_classes:
        options = replace(options, num_classes=None)
    return _load(source, config, data, options)[1]


def save_trained(
    run: Run, config: DiffusionConfig, denoiser: DiffusersDenoiser, spec: DiffusionSpec
) -> None:
    """Write a trained model as a diffusers folder, and its adapters to a folder of their own."""
    if config.lora_rank:
        save_lora(denoiser, run.lora_folder)
        merge_lora(denoiser)
    source = config.finetune
    text = None if source is None or Path(source).is_file() else local_folder(source)
    save_folder(parts_of(denoiser, spec), run.diffusion_folder, text_from=text)


def _load_custom(config: DiffusionConfig, data: OODDataModule) -> LoadedDiffusion:
    """Load the user's own denoiser; a detector checkpoint stores its weights, if it has any."""
    if (
        config.store == "reference"
        or config.model != ModelConfig()
        or config.patch != DiffusionSpec.patch
    ):
        raise UserError(
            f"diffusion.network {config.network} is your own class, whose arguments are "
            "diffusion.kwargs and whose weights are stored in the detector: leave out "
            "diffusion.model, diffusion.patch and diffusion.store reference"
        )
    denoiser = build_custom_denoiser(config.network, config.kwargs, [config.network])
    if config.ckpt is not None:
        load_custom_weights(denoiser, config.ckpt, config.network)
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
    path: str, config: DiffusionConfig, data: OODDataModule, options: CheckpointOptions
) -> tuple[DiffusersDenoiser, DiffusionSpec]:
    parts = load_diffusion(path, options)
    if config.patch not in (DiffusionSpec.patch, parts.patch):
        raise UserError(
            f"diffusion.patch is {config.patch}, but {path} was trained with {parts.patch}: leave "
            "it out, because a trained model defines it"
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
    """The parts of a trained model, for `save_folder`."""
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
