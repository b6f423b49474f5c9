"""`detector.ckpt`: the one artefact that training leaves and evaluation needs.

A plain dictionary of tensors, numbers, text, lists and dictionaries, written by `torch.save` and
read with `weights_only=True`: no class is restored from the file, networks are built from their
specs and filled.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.baselines import Reference
from diffguard.calibration import Calibration
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.files import replace_file
from diffguard.models import (
    ClassifierSpec,
    DiffusionSpec,
    build_classifier,
    build_denoiser,
    spec_dict,
)
from diffguard.networks import TimedCNN
from diffguard.settings import from_dict, to_dict
from diffguard.weights import load_tensors

FORMAT = "diffguard-detector"
VERSION = 1
_LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "timm", "pytorch-ood")


def save_detector(
    path: str | Path,
    detector: Detector,
    classifier_spec: ClassifierSpec,
    diffusion_spec: DiffusionSpec,
    config: Mapping[str, Any],
) -> None:
    """Write a detector with everything that evaluation needs.

    Args:
        path: File to write; an older one is replaced at once or not at all.
        detector: A calibrated detector.
        classifier_spec: What its classifier is.
        diffusion_spec: What its diffusion model is.
        config: The config of the run, plain values only; its `data` section is what
            `evaluate.py` evaluates on by default.
    """
    calibration, reference = detector.calibration, detector.reference
    if calibration is None:
        raise UserError("only a calibrated detector can be saved")
    if not isinstance(detector.denoiser, nn.Module):
        raise UserError("only a diffusion model that is a torch module can be saved")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "classifier": {
            "spec": spec_dict(classifier_spec),
            "state": _on_cpu(detector.classifier.network),
        },
        "diffusion": {
            "spec": spec_dict(diffusion_spec),
            "state": _on_cpu(detector.denoiser.network),
        },
        "noisy_classifier": None
        if detector.noisy_classifier is None
        else _on_cpu(detector.noisy_classifier),
        "settings": to_dict(detector.settings),
        "image": {"size": detector.image_size, "channels": detector.image_channels},
        "seed": detector.seed,
        "calibration": {"scores": calibration.scores},
        "reference": None
        if reference is None
        else {"features": reference.features.cpu(), "labels": reference.labels.cpu()},
        "config": dict(config),
        "libraries": library_versions(),
    }
    with replace_file(Path(path)) as temporary:
        torch.save(content, temporary)


def load_detector(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    trusted: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """Load a detector.

    Args:
        path: A `detector.ckpt`.
        device: Where to put it.
        trusted: Import paths of further classes that the file may name.
        settings: Settings instead of the stored ones, in full.

    Raises:
        UserError: For a file that is missing, foreign, damaged, of another version, or that holds
            anything but plain data.
    """
    return detector_from(read_checkpoint(path), trusted=trusted, settings=settings).to(device)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `detector.ckpt` as plain data, without building anything.

    Raises:
        UserError: As `load_detector`.
    """
    content = load_tensors(Path(path))
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} is no detector checkpoint: expected the detector.ckpt that train.py writes"
        )
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has format version {content.get('version')}, this program reads {VERSION}: "
            "train again, or use the version of the program that wrote it"
        )
    return content


def detector_from(
    content: Mapping[str, Any],
    *,
    trusted: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """Build the detector of a checkpoint that was read.

    Raises:
        UserError: Where the content does not fit together.
    """
    try:
        classifier_spec = ClassifierSpec(**_known(ClassifierSpec, content["classifier"]["spec"]))
        diffusion_spec = DiffusionSpec(**_known(DiffusionSpec, content["diffusion"]["spec"]))
        classifier = build_classifier(classifier_spec, trusted=trusted)
        denoiser = build_denoiser(diffusion_spec)
        fill(classifier.network, content["classifier"]["state"], "classifier")
        fill(denoiser.network, content["diffusion"]["state"], "diffusion model")
        noisy = content["noisy_classifier"]
        if noisy is not None:
            noisy = timed_cnn(noisy)
        stored = content["reference"]
        reference = None if stored is None else Reference(stored["features"], stored["labels"])
        found = content["calibration"]
        own = from_dict(content["settings"] if settings is None else settings)
        return Detector(
            classifier,
            denoiser,
            own,
            image_size=content["image"]["size"],
            image_channels=content["image"]["channels"],
            reference=reference,
            calibration=Calibration.of(found["scores"], own),
            noisy_classifier=noisy,
            seed=content["seed"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the detector checkpoint is damaged ({type(error).__name__}: {error}): "
            "write it again with train.py"
        ) from error


def timed_cnn(state: Mapping[str, Tensor]) -> TimedCNN:
    """The classifier of noisy images that some weights belong to."""
    first = state["stages.0.0.weight"]
    network = TimedCNN(len(state["fc.bias"]), first.shape[1], first.shape[0])
    fill(network, state, "classifier of noisy images")
    return network


def fill(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly.

    Raises:
        UserError: Naming the first tensors that are missing, left over or of another shape.
    """
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
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
            f"expected {tuple(own[name].shape)}"
        )
    network.load_state_dict(state)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _on_cpu(module: Any) -> dict[str, Tensor]:
    return {name: _compact(value) for name, value in module.state_dict().items()}


def _compact(value: Tensor) -> Tensor:
    """A tensor on the CPU, in bfloat16 where that holds it exactly, as in models kept so."""
    value = value.detach().cpu().contiguous()
    half = value.to(torch.bfloat16)
    return half if value.is_floating_point() and torch.equal(half.to(value.dtype), value) else value


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in values.items() if name in names}
