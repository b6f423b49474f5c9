"""A diffusion model to train from scratch, and a check that it takes the images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from diffguard.denoisers.build import empty_network, wrap_parts
from diffguard.denoisers.custom import is_import_path
from diffguard.denoisers.formats import CheckpointOptions
from diffguard.denoisers.formats.folder import label_rows
from diffguard.denoisers.parts import DiffusionParts
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError, reason_of
from diffguard_cli.config import DiffusionConfig


def diffusion_spec(config: DiffusionConfig, data: Any) -> DiffusionSpec:
    """The spec of a model to train from scratch, with a null class besides the data's classes.

    Raises:
        UserError: If the network is not one of the two that can be trained, its classes do not fit
            the data, or the size of the images is not a multiple of the patch.
    """
    if is_import_path(config.network):
        raise UserError(
            f"diffusion.network {config.network} is your own class, which DiffGuard does not "
            "train: leave diffusion out of stages, and name its weights in diffusion.ckpt"
        )
    is_dit = config.network == "DiTTransformer2DModel"
    if not is_dit and config.network != "UNet2DModel":
        raise UserError(
            f"diffusion.network {config.network!r} cannot be trained from scratch: expected "
            "UNet2DModel, DiTTransformer2DModel or the import path of a denoiser; name a trained "
            "model in diffusion.ckpt"
        )
    channels = data.channels * config.patch**2
    kwargs: dict[str, Any] = {
        "sample_size": _state_size(config, data.image_size),
        "in_channels": channels,
        "out_channels": channels,
        **config.kwargs,
    }
    num_classes: int | None = data.num_classes
    null_class = num_classes
    if is_dit:
        kwargs.setdefault("num_embeds_ada_norm", num_classes)
        num_classes = null_class = kwargs["num_embeds_ada_norm"]
    else:
        kwargs.setdefault("num_class_embeds", data.num_classes + 1)
        rows = kwargs["num_class_embeds"]
        num_classes, null_class = None, None
        if rows is not None:
            num_classes, null_class = label_rows(rows, checkpoint_options(config, data))
    return DiffusionSpec(
        network=config.network,
        config=kwargs,
        scheduler=dict(config.scheduler),
        image_size=data.image_size,
        image_channels=data.channels,
        num_classes=num_classes,
        null_class=null_class,
        fit=config.fit,
        antialias=config.antialias,
        patch=config.patch,
    )


def _state_size(config: DiffusionConfig, image_size: int) -> int:
    """Side of the states of a model to train; the default of `sample_size`."""
    if config.patch < 1:
        raise UserError(f"diffusion.patch must be at least 1, got {config.patch:,}")
    if "sample_size" not in config.kwargs and image_size % config.patch:
        raise UserError(
            f"images of {image_size} pixels cannot be cut into patches of diffusion.patch "
            f"{config.patch}: set data.image_size to a multiple of it, or set the side of the "
            "states in diffusion.kwargs.sample_size, to which images are resized"
        )
    return image_size // config.patch


def check_network(config: DiffusionConfig, data: Any) -> None:
    """Make sure, before training, that a model to train from scratch takes the images.

    One image passes through it on torch's `meta` device, which computes shapes only.

    Raises:
        UserError: If it cannot be built, or takes images of other channels or another size.
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
            "patch_size must divide sample_size"
        )


def _check_sizes(spec: DiffusionSpec) -> None:
    """Refuse a state size that diffusers would accept silently."""
    size = spec.config["sample_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(
            f"diffusion.kwargs.sample_size must be a whole number of at least 1, got {size!r:.60}"
        )


def checkpoint_options(config: DiffusionConfig, data: Any) -> CheckpointOptions:
    """The config's description of a checkpoint, with the classes of the data."""
    return CheckpointOptions(
        **asdict(config.model),
        num_classes=data.num_classes,
        null_class=config.null_class,
        class_names=tuple(str(name) for name in data.class_names),
        prompt=config.prompt,
    )
