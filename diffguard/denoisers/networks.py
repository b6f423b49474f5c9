"""The network classes that a diffusion model may use, and the arguments that diffusers accepts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from diffguard.errors import UserError
from diffguard.storage.arguments import check_values

NETWORKS = ("UNet2DModel", "ADMUNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel")


class _UniformDtype:
    """Reads the dtype of a network from its first weight.

    diffusers' property walks all modules at each call of the network. All weights of our networks
    have one dtype.
    """

    parameters: Callable[[], Iterator[Tensor]]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the class of diffusers: no module holds the class that is made below."""
        state = super().__reduce_ex__(protocol)[2]
        return _empty, (type(self).__bases__[1],), state


@cache
def _with_uniform_dtype(cls: type) -> type:
    return type(cls.__name__, (_UniformDtype, cls), {"__module__": cls.__module__})


def _empty(cls: type) -> Any:
    """A network without weights, for unpickling."""
    network_class: Any = _with_uniform_dtype(cls)
    return network_class.__new__(network_class)


def module_class(name: str, classes: tuple[str, ...]) -> Any:
    """A network's or autoencoder's class by name, with a fast `dtype`.

    Raises:
        UserError: For an unknown class.
    """
    if name not in classes:
        raise UserError(
            f"diffusion network {name!r} is not known, expected one of {', '.join(classes)}"
        )
    if name == "ADMUNet2DModel":
        from diffguard.denoisers.adm_unet import ADMUNet2DModel

        return _with_uniform_dtype(ADMUNet2DModel)
    import diffusers

    return _with_uniform_dtype(getattr(diffusers, name))


def accepted_config(cls: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that a diffusers class accepts; it would ignore the rest.

    Raises:
        UserError: For values that do more than shape a network.
    """
    parameters = inspect.signature(cls.__init__).parameters
    arguments = {
        name: value for name, value in config.items() if name in parameters and name != "self"
    }
    check_values(f"the config of {cls.__name__}", arguments)
    return arguments


def argument_names(name: str) -> list[str] | None:
    """Names of the arguments of a diffusers class; None if diffusers has no such class."""
    import diffusers

    cls = getattr(diffusers, name, None)
    return None if cls is None else list(inspect.signature(cls.__init__).parameters)[1:]
