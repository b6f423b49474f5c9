"""Torch's random generators, kept and restored over all processes of a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

GeneratorStates = dict[str, Tensor]


def generator_states(device: torch.device, world_size: int) -> list[GeneratorStates]:
    """States of the CPU's generator and that of the device, of every process; called by all.

    Args:
        device: The device of this process.
        world_size: Number of processes.
    """
    own = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        own[device.type] = torch.get_device_module(device).get_rng_state(device)
    if world_size == 1:
        return [own]
    gathered: list[GeneratorStates] = [{}] * world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set this process's generators to what `generator_states` found.

    Args:
        states: The states of this process.
        device: Its device; a state of another kind of device is left aside.
    """
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)
