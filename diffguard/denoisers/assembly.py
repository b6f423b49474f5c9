"""A user's diffusion model in any form: a denoiser, a file, a folder or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffguard.denoisers.build import wrap_parts
from diffguard.denoisers.custom import check_denoiser
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.options import ModelSource
from diffguard.denoisers.reference import LARGE
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.errors import UserError
from diffguard.storage.paths import expand_home


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model and what builds it again.

    Attributes:
        denoiser: The model.
        image_size: Side of the working images in pixels.
        image_channels: Channels of the working images, 1 or 3.
        spec: Its spec; None if it is unknown.
        source: Where it is loaded from, if it is too large to be stored.
    """

    denoiser: Denoiser
    image_size: int
    image_channels: int
    spec: DiffusionSpec | None
    source: ModelSource | None


def opened_diffusion(
    diffusion: Denoiser | str | Path,
    class_names: Sequence[str],
    needs_classes: bool,
    image_size: int | None,
    image_channels: int | None,
    options: CheckpointOptions | None,
) -> Diffusion:
    """A diffusion model as given, or from a file, a folder or the hub.

    Args:
        diffusion: The model, or what `load_diffusion` loads.
        class_names: Names of the classifier's classes.
        needs_classes: Whether labels reach the model, so that its classes must be the same.
        image_size: Side of the working images; defaults to that of the model.
        image_channels: Channels of the working images; defaults to those of the model.
        options: What a file does not contain about its model.

    Raises:
        UserError: If it cannot be loaded, is not a denoiser, or knows other classes.
    """
    if not isinstance(diffusion, str | Path):
        check_denoiser(diffusion, type(diffusion).__name__)
        side, channels = (
            _working(name, value, getattr(diffusion, name, None))
            for name, value in (("image_size", image_size), ("image_channels", image_channels))
        )
        return Diffusion(diffusion, side, channels, getattr(diffusion, "spec", None), None)
    path = expand_home(str(diffusion), "diffusion")
    classes = len(class_names) if needs_classes else None
    options = replace(
        options or CheckpointOptions(), num_classes=classes, class_names=tuple(class_names)
    )
    model = load_diffusion(path, options)
    spec = model.spec(image_size=image_size, image_channels=image_channels or model.pixel_channels)
    denoiser = wrap_parts(model, spec)
    source = ModelSource(path, options) if denoiser.count_weights() > LARGE else None
    return Diffusion(denoiser, spec.image_size, spec.image_channels, spec, source)


def _working(name: str, value: int | None, default: int | None) -> int:
    """Size or channels of the working images of a denoiser."""
    result = default if value is None else value
    if result is None:
        raise UserError(f"{name} is needed: the diffusion model does not state that of its images")
    if default is not None and result != default:
        raise UserError(f"{name} is {result}, but the diffusion model was made for {default}")
    return result
