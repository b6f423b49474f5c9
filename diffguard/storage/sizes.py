"""Limits on the size of a network, checked before memory is allocated for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from diffguard.errors import UserError
from diffguard.storage.rebuilding import WithoutWeights

# The largest image networks have some thousand modules and, with rare exceptions, fewer than three
# billion weights.
MOST_MODULES = 20_000
MOST_WEIGHTS = 4_000_000_000


def trial(build: Callable[[], nn.Module], what: str) -> nn.Module:
    """Build a network on the meta device, which needs no memory for weights.

    Args:
        build: A function that builds the network.
        what: Kind of network, for the error line.

    Raises:
        UserError: For a network of absurd size, as soon as it is detected. Errors of `build` are
            passed on.
    """
    # The trial must not change the random weights of later networks.
    with torch.random.fork_rng(devices=[]):
        try:
            with _counted(what), torch.device("meta"):
                return build()
        except NotImplementedError:
            # The constructor computes with values, as torchvision's RegNet does with its widths.
            with _counted(what), WithoutWeights():
                return build()


@contextmanager
def _counted(what: str) -> Iterator[None]:
    """Count registered modules and weights, and stop if there are absurdly many."""
    modules = weights = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise UserError(f"{what} would have more than {MOST_MODULES:,} layers: check its sizes")

    def check_weights(module: nn.Module, name: str, value: Tensor | None) -> None:
        # Libraries warn about each of these before they fail.
        if value is not None and not value.numel():
            raise UserError(
                f"{what} would have a {type(module).__name__} with an empty {name}: check its sizes"
            )
        count_weights(module, name, value)

    def count_weights(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal weights
        weights += 0 if value is None else value.numel()
        if weights > MOST_WEIGHTS:
            raise UserError(
                f"{what} would have more than {MOST_WEIGHTS:,} weights: check its sizes"
            )

    handles = [
        registration.register_module_module_registration_hook(count_module),
        registration.register_module_parameter_registration_hook(check_weights),
        registration.register_module_buffer_registration_hook(count_weights),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_fit(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Compare the names and shapes of a network's tensors with a state dict.

    Args:
        network: Any network, on the meta device or not.
        state: Name -> tensor.
        what: Kind of network, for the error line.

    Raises:
        UserError: Naming the first tensors that are missing, left over or of another shape.
    """
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    shapes = [n for n in expected if n in state and expected[n].shape != state[n].shape]
    if missing or extra:
        raise UserError(
            f"the weights do not fit the {what}: "
            f"{len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(extra)} are left over ({', '.join(extra[:3])})"
        )
    if shapes:
        name = shapes[0]
        raise UserError(
            f"the weights do not fit the {what}: {name} has shape {tuple(state[name].shape)}, "
            f"expected {tuple(expected[name].shape)}"
        )
