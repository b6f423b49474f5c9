"""`detector.ckpt`, the one file that training writes and evaluation needs.

It holds a plain dictionary of tensors, numbers, text, lists and dictionaries, written by
`torch.save` and read with `weights_only=True`. No class is restored from the file: networks are
built from their specs and filled.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.checkpoint.parts import DetectorParts
from diffguard.checkpoint.schema import check_content
from diffguard.checkpoint.versions import READABLE, VERSION, upgraded
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.custom import weight_parts
from diffguard.denoisers.reference import refer
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError
from diffguard.pretrained import checkpoint_file
from diffguard.settings.plain import to_dict
from diffguard.storage.environment import installed_versions
from diffguard.storage.files import replace_file
from diffguard.storage.paths import user_path
from diffguard.storage.weights import load_tensors

FORMAT = "diffguard-detector"
_LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "timm", "pytorch-ood")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares no text with other objects: pickle writes shared text only once."""
    copied: dict[str, Any] = json.loads(json.dumps(values))
    return copied


def write_checkpoint(
    path: str | Path,
    parts: DetectorParts,
    *,
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Write a detector with everything that evaluation needs.

    Args:
        path: File to write; an older one is replaced at once or not at all.
        parts: The parts of a calibrated detector, with the specs of its networks in `origin`.
        weights: The result of `diffusion_weights`; defaults to the present weights of the diffusion
            model, or to a reference if it has a source.

    Raises:
        UserError: If the detector is not calibrated, its denoiser is not a module, or the spec of a
            network is missing.
    """
    calibration, reference, origin = parts.calibration, parts.reference, parts.origin
    if calibration is None:
        raise UserError("only a calibrated detector can be saved: call detector.calibrate first")
    if not isinstance(parts.denoiser, nn.Module):
        raise UserError(
            "only a detector whose denoiser is a torch.nn.Module can be saved: derive "
            f"{type(parts.denoiser).__name__} from it"
        )
    classifier_spec, diffusion_spec = _specs(parts)
    if weights is None:
        source = origin.source
        folder = Path(path).parent
        model = None if source is None else refer(source.path, source.options, folder)
        weights = diffusion_weights(parts.denoiser, model)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "classifier": {
            "spec": _plain(asdict(classifier_spec)),
            "state": _on_cpu(parts.classifier.network),
        },
        "diffusion": {
            "spec": _plain(asdict(diffusion_spec)),
            **weights,
        },
        "noisy_classifier": None
        if parts.noisy_classifier is None
        else _on_cpu(parts.noisy_classifier),
        "settings": _plain(to_dict(parts.settings)),
        "image": {"size": parts.image_size, "channels": parts.image_channels},
        "seed": parts.seed,
        "calibration": {
            "scores": calibration.scores,
            "features": calibration.features,
            "passes": calibration.passes,
            "quality": None if calibration.quality is None else asdict(calibration.quality),
        },
        "reference": None
        if reference is None
        else {
            "features": reference.features.cpu(),
            "labels": reference.labels.cpu(),
            "share": reference.share,
        },
        "fits": {name: dict(state) for name, state in parts.fits.items()},
        "config": _plain(dict(origin.config)),
        "libraries": library_versions(),
    }
    with replace_file(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def _specs(parts: DetectorParts) -> tuple[ClassifierSpec, DiffusionSpec]:
    """The specs of the networks.

    Raises:
        UserError: If one is unknown.
    """
    if parts.origin.classifier is None:
        raise UserError(
            f"the classifier {type(parts.classifier.network).__name__} cannot be saved, because "
            "nothing states how to build it again: name its arch, or the kwargs of its class, in "
            "from_parts, or give a ClassifierSpec as classifier_spec"
        )
    if parts.origin.diffusion is None:
        raise UserError(
            f"the diffusion model {type(parts.denoiser).__name__} cannot be saved, because nothing "
            "states how to build it again: load it by its path or hub id, or, if its class can be "
            "imported, give save a DiffusionSpec with its import path as diffusion_spec"
        )
    return parts.origin.classifier, parts.origin.diffusion


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `detector.ckpt` as plain data, without building anything.

    Raises:
        UserError: For a file that is missing, foreign, damaged, of another version, or that holds
            anything but plain data.
    """
    content = load_tensors(checkpoint_file(user_path(path, "checkpoint")))
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a detector checkpoint: expected one that training or detector.save "
            "wrote"
        )
    if content.get("version") not in READABLE:
        raise UserError(
            f"{path} has format version {content.get('version')}, this program reads 1 to "
            f"{VERSION}: use the version of the program that wrote it, or "
            "train again"
        )
    content = upgraded(content)
    check_content(content, str(path))
    return content


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version(), **installed_versions(_LIBRARIES)}


def diffusion_weights(denoiser: Any, reference: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The weights of a diffusion model as a checkpoint holds them, as plain data.

    Args:
        denoiser: The model.
        reference: The result of `diffguard.denoisers.reference.refer` for it. The model is then
            referred to instead of copied, except for the context of its labels, which may come from
            prompts.
    """
    parts = {name: _on_cpu(module) for name, module in weight_parts(denoiser).items()}
    if reference is not None:
        parts = {name: state for name, state in parts.items() if name == "context"}
        return {"state": None, "parts": parts, "reference": dict(reference)}
    return {"state": parts.pop("network"), "parts": parts, "reference": None}


def _on_cpu(module: Any) -> dict[str, Tensor]:
    return {name: _compact(value) for name, value in module.state_dict().items()}


def _compact(value: Tensor) -> Tensor:
    """A tensor on the CPU, in bfloat16 if that represents it exactly."""
    value = value.detach().cpu().contiguous()
    half = value.to(torch.bfloat16)
    return half if value.is_floating_point() and torch.equal(half.to(value.dtype), value) else value
