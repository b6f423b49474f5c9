"""States of torch's random generators, which a checkpoint keeps for each process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffguard.training.state_check import damaged_state

GeneratorStates = dict[str, Tensor]


def generator_states(device: torch.device, world_size: int) -> list[GeneratorStates]:
    """States of every process's generators, of the CPU and of the device; every process calls it.

    Args:
        device: The device of this process.
        world_size: Number of processes.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    if world_size == 1:
        return [states]
    gathered: list[GeneratorStates] = [{}] * world_size
    torch.distributed.all_gather_object(gathered, states)
    return gathered


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators of this process to their state in a checkpoint.

    Args:
        states: The states of this process.
        device: Its device; the state of another kind of device is ignored.
    """
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def check_generators(states: Mapping[str, Tensor]) -> None:
    """Raise `UserError` for states that are not those of generators."""
    if "cpu" not in states:
        raise damaged_state("generators", "the state of the CPU's generator is missing")
    for state in states.values():
        if state.dtype != torch.uint8 or state.ndim != 1:
            raise damaged_state("generators", "expected (n,) uint8")
    try:
        torch.Generator().set_state(states["cpu"])
    except RuntimeError:
        raise damaged_state("generators", "expected a state of torch's generator") from None
