"""Builds diffusion models from their specs: their parts and their adapters.

A model consists of a network and the noise levels that it was trained on. A latent model also has
an autoencoder, and one with cross-attention a context for each label. All parts are diffusers
modules, or modules of this project if diffusers cannot express a published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.batching import ROW_MULTIPLE
from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.latent import LatentDenoiser
from diffguard.denoisers.networks import AUTOENCODERS, NETWORKS, accepted_config, module_class
from diffguard.denoisers.parts import DiffusionParts
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import check_null_class
from diffguard.errors import UserError, reason_of
from diffguard.storage.arguments import LARGEST_SIDE
from diffguard.storage.sizes import check_fit, trial

# Published networks have at most some dozen layers per block.
_MOST_LAYERS = 100


def build_denoiser(
    spec: DiffusionSpec, states: Mapping[str, Mapping[str, Tensor]] | None = None
) -> DiffusersDenoiser:
    """Build a diffusion model with random weights, on the default device.

    Args:
        spec: What to build.
        states: Weights by name of the part; they are compared with the parts before memory is
            allocated.

    Raises:
        UserError: For an unknown network, a config that it refuses or that could do more than
            shape it, absurd sizes, and weights that do not fit.
    """
    autoencoder = context = None
    if spec.autoencoder is not None:
        autoencoder = _build(
            spec.autoencoder, AUTOENCODERS, spec.autoencoder_config, "autoencoder", states
        )
    network = _build(spec.network, NETWORKS, spec.config, "network", states)
    if spec.context is not None:
        context = empty_context(spec.context, states)
    parts = DiffusionParts(
        family="diffusers",
        network=network,
        scheduler=spec.scheduler,
        image_size=spec.image_size,
        num_classes=spec.num_classes,
        null_class=spec.null_class,
        autoencoder=autoencoder,
        context=context,
        patch=spec.patch,
    )
    return wrap_parts(parts, spec)


def wrap_parts(parts: DiffusionParts, spec: DiffusionSpec) -> DiffusersDenoiser:
    """Wrap a model's parts in the adapter that the spec needs.

    Raises:
        UserError: For parts that do not fit each other, or images that the model cannot take.
    """
    options: dict[str, Any] = {
        "image_size": spec.image_size,
        "image_channels": spec.image_channels,
        "num_classes": parts.num_classes,
        "null_class": parts.null_class,
        "antialias": spec.antialias,
        "spec": spec,
    }
    # Noise levels are read on the CPU, regardless of the network's device.
    with torch.device("cpu"):
        schedule = schedule_from_config(parts.scheduler)
    _check_side(parts.network)
    _check_labels(parts)
    if parts.autoencoder is None:
        if "cross_attention_dim" in parts.network.config:
            raise UserError(
                "a UNet2DConditionModel works on latents, and there is no autoencoder beside it: "
                "expected a folder with vae/ or vqvae/"
            )
        _check_channels(parts.network.config, parts.patch)
        return PixelDenoiser(parts.network, schedule, fit=spec.fit, patch=parts.patch, **options)
    if parts.patch != 1:
        raise UserError("diffusion.patch is for pixel models: a latent model has no patches")
    if spec.fit == "pad":
        raise UserError("images cannot be padded for a latent model: set diffusion.fit to resize")
    if spec.slice_size != 1 and (spec.slice_size < 1 or spec.slice_size % ROW_MULTIPLE):
        raise UserError(
            f"diffusion.slice_size must be 1 or a multiple of {ROW_MULTIPLE}, with which a score "
            f"does not depend on an image's place; got {spec.slice_size}"
        )
    return LatentDenoiser(
        parts.network,
        parts.autoencoder,
        schedule,
        context=parts.context,
        slice_size=spec.slice_size,
        **options,
    )


def _check_side(network: Any) -> None:
    """Refuse state sizes that a network cannot halve, or divide into patches, evenly."""
    config = network.config
    side, multiple = config["sample_size"], config.get("patch_size", 1)
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= LARGEST_SIDE:
        raise UserError(
            f"the diffusion model's sample_size must be a whole number from 1 to {LARGEST_SIDE}, "
            f"got {side!r:.60}: check its config"
        )
    if type(network).__name__ == "UNet2DModel":
        multiple = 2 ** (len(config["block_out_channels"]) - 1)
    if side % multiple:
        raise UserError(
            f"the diffusion model cannot take states with a side of {side}: expected a multiple of "
            f"{multiple}; set diffusion.kwargs.sample_size to one"
        )


def _check_labels(parts: DiffusionParts) -> None:
    """Refuse labels that the network has no embedding of; a GPU reports them only as a crash."""
    check_null_class(parts.num_classes, parts.null_class)
    config = parts.network.config
    rows = config.get("num_class_embeds")
    if config.get("num_embeds_ada_norm") is not None:
        rows = config["num_embeds_ada_norm"] + 1  # the last one means "no label"
    if parts.context is not None:
        rows = len(parts.context.table)
    null_class = -1 if parts.null_class is None else parts.null_class
    largest = max((parts.num_classes or 0) - 1, null_class)
    if rows is not None and largest >= rows:
        raise UserError(
            f"the diffusion model has embeddings of {rows} labels, but its largest label is "
            f"{largest}: check num_classes and null_class"
        )


def _check_channels(config: Mapping[str, Any], patch: int) -> None:
    """Check the channels of a pixel model: gray or color in, the same or twice as many out."""
    inputs, outputs = config["in_channels"], config.get("out_channels") or config["in_channels"]
    if inputs not in (patch**2, 3 * patch**2):
        raise UserError(
            f"the diffusion model takes {inputs} channels, expected {patch**2} or {3 * patch**2} "
            "of an image: a latent model needs its autoencoder beside it (vae/ or vqvae/)"
        )
    if outputs not in (inputs, 2 * inputs):
        raise UserError(
            f"the diffusion model takes {inputs} channels and returns {outputs}, expected "
            f"{inputs}, or {2 * inputs} with a learned variance"
        )


def _check_depth(name: str, config: Mapping[str, Any]) -> None:
    """Refuse absurd numbers of layers, which take long to build."""
    for key, value in config.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if "layers" in key and isinstance(number, int) and number > _MOST_LAYERS:
                raise UserError(
                    f"diffusion network {name} cannot be built: {key} must be at most "
                    f"{_MOST_LAYERS}, got {number:,}"
                )


def empty_context(
    shape: list[int], states: Mapping[str, Mapping[str, Tensor]] | None
) -> ClassContext:
    """A context of zeros, after its size was compared with its weights."""
    empty = trial(lambda: ClassContext(torch.zeros(shape)), "the context of the labels")
    if states is not None:
        check_fit(empty, states.get("context", {}), "diffusion model's context")
    return ClassContext(torch.zeros(shape))


def empty_network(name: str, config: dict[str, Any]) -> nn.Module:
    """A diffusers network without values, on torch's `meta` device.

    Raises:
        UserError: For an unknown class, or a config that it refuses.
    """
    with torch.device("meta"):
        return _build(name, NETWORKS, config, "network", None)


def _build(
    name: str,
    classes: tuple[str, ...],
    config: dict[str, Any],
    part: str,
    states: Mapping[str, Mapping[str, Tensor]] | None,
) -> nn.Module:
    cls = module_class(name, classes)
    plain = accepted_config(cls, config)
    _check_depth(name, plain)
    try:
        empty = trial(lambda: cls.from_config(plain), f"diffusion network {name}")
        if states is not None:
            what = "diffusion model" if part == "network" else f"diffusion model's {part}"
            check_fit(empty, states.get(part, {}), what)
        return cls.from_config(plain)
    except UserError:
        raise
    except (
        TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, LookupError,
        ArithmeticError,
    ) as error:  # fmt: skip
        raise UserError(f"diffusion network {name} cannot be built: {reason_of(error)}") from error
