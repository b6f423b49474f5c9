r"""Low-rank adaptation of a diffusion model (LoRA; Hu et al., 2022), through peft.

A layer's weight W does not change; the product of two thin matrices is learned in addition:
$W + \frac{\alpha}{r} B A$, where B starts at zero. After merging, the model is an ordinary one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from diffguard.denoisers.base import DiffusersDenoiser
from diffguard.errors import UserError, missing_package

# The attention projections, by the names that all diffusers families share.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def add_lora(
    denoiser: DiffusersDenoiser, rank: int, alpha: float, targets: Sequence[str] = TARGETS
) -> None:
    """Add adapters to a denoiser's network; after this only they are trained.

    Args:
        denoiser: The model.
        rank: Rank r of the adapters, at least 1.
        alpha: Scale α.
        targets: Name suffixes of the layers that get an adapter, linear or convolutional.

    Raises:
        UserError: If peft is not installed, or no layer has such a name.
    """
    if rank < 1 or alpha <= 0:
        raise UserError(f"LoRA needs a positive rank and alpha, got {rank} and {alpha:g}")
    peft = _peft()
    for part in denoiser.parts().values():
        part.requires_grad_(requires_grad=False)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    try:
        peft.inject_adapter_in_model(config, denoiser.network)
    except ValueError as error:
        kinds = (nn.Linear, nn.Conv2d)
        names = [n for n, m in denoiser.network.named_modules() if isinstance(m, kinds)]
        raise UserError(
            f"no layer of the diffusion model is named {' or '.join(targets)}: set "
            f"diffusion.lora_targets to some of its layers, such as {', '.join(names[1:4])}"
        ) from error


def save_lora(denoiser: DiffusersDenoiser, folder: Path) -> None:
    """Write only the adapters, in peft's format: `adapter_config.json` and safetensors."""
    from safetensors.torch import save_file

    peft, network = _peft(), denoiser.network
    config: Any = network.peft_config["default"]  # type: ignore[index]
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    state = peft.get_peft_model_state_dict(network)
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(state, folder / "adapter_model.safetensors")


def merge_lora(denoiser: DiffusersDenoiser) -> None:
    """Merge the adapters into the weights and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = denoiser.network
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
    del network.peft_config


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(missing_package("LoRA", "peft")) from error
    return peft
