"""A user's diffusion model: a module with the methods of `Denoiser`, by import path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.denoisers.build import build_denoiser
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import check_null_class
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError, reason_of
from diffguard.storage.arguments import check_arguments, consented
from diffguard.storage.foreign import read_foreign
from diffguard.storage.state_dict import fill
from diffguard.storage.trust import import_class
from diffguard.storage.weights import tensors_of, without_prefixes

_MEMBERS = (
    "num_classes",
    "null_class",
    "schedule",
    "encode",
    "decode",
    "preview",
    "place_mask",
    "predict_noise",
)


def is_import_path(network: str) -> bool:
    """Whether a network's name is the import path of a class, not a diffusers class."""
    return "." in network


def build_any_denoiser(
    spec: DiffusionSpec,
    trusted: str | Collection[str] = (),
    states: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Any:
    """Build a diffusion model of diffusers or of the user, with its initial weights.

    Args:
        spec: What to build.
        trusted: Import paths that the user has named.
        states: See `build_denoiser`; not used for a user's class.

    Raises:
        UserError: For a class that is not trusted or cannot be built.
    """
    if is_import_path(spec.network):
        return build_custom_denoiser(spec.network, spec.config, trusted)
    return build_denoiser(spec, states)


def build_custom_denoiser(
    path: str, kwargs: Mapping[str, Any], trusted: str | Collection[str]
) -> Any:
    """Build a user's denoiser; it is an `nn.Module` and follows `Denoiser`.

    Args:
        path: Import path of its class.
        kwargs: Arguments of the constructor.
        trusted: Import paths that the user has named.

    Raises:
        UserError: For a class that is not trusted, cannot be built or is not a denoiser.
    """
    cls = import_class(path, trusted)
    if path not in consented(trusted):
        check_arguments("denoiser", path, cls, kwargs)
    try:
        denoiser: Any = cls(**kwargs)
    except UserError:
        raise
    except Exception as error:
        # Constructors of users may raise any exception.
        raise UserError(f"denoiser {path} cannot be built: {reason_of(error)}") from error
    check_denoiser(denoiser, path)
    return denoiser.eval()


def check_denoiser(denoiser: Any, name: str) -> None:
    """Check that an object has the attributes and methods of `Denoiser`.

    Raises:
        UserError: Naming those that are missing; for a null class that is one of the classes.
    """
    lacking = [member for member in _MEMBERS if not hasattr(denoiser, member)]
    if not lacking and not isinstance(denoiser.schedule, NoiseSchedule):
        lacking = ["schedule of the class NoiseSchedule"]
    if lacking:
        raise UserError(
            f"{name} is not a denoiser, it has no {', '.join(lacking)}: expected the attributes "
            "and methods of diffguard.diffusion.denoiser.Denoiser"
        )
    check_null_class(denoiser.num_classes, denoiser.null_class)


def load_custom_weights(denoiser: nn.Module, file: str, path: str) -> None:
    """Load a state dict into a user's denoiser, strictly.

    Args:
        denoiser: The denoiser to load them into.
        file: The file; it is read as data.
        path: Import path of the denoiser, for error lines.

    Raises:
        UserError: For a file that cannot be read safely, or holds other tensors.
    """
    content = read_foreign(file)
    names = set(denoiser.state_dict())
    variants = list(without_prefixes(tensors_of(content, Path(file))))
    tensors = next((variant for variant in variants if set(variant) == names), variants[-1])
    try:
        fill(denoiser, tensors, f"denoiser {path}")
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def weight_parts(denoiser: Any) -> dict[str, nn.Module]:
    """The modules of a denoiser that hold weights, by name."""
    if isinstance(denoiser, DiffusersDenoiser):
        return denoiser.parts()
    return {"network": denoiser}


def cast_weights(denoiser: Any, dtype: torch.dtype) -> None:
    """Convert a denoiser's weights to a floating dtype; float32 changes nothing.

    Raises:
        UserError: For a user's denoiser without a method `cast`.
    """
    if dtype == torch.float32:
        return
    if not hasattr(denoiser, "cast"):
        raise UserError(
            f"{type(denoiser).__name__} has no method cast(dtype), which brings its weights to "
            "half precision: add one, or set trainer.precision to 32-true or bf16-mixed"
        )
    denoiser.cast(dtype)
