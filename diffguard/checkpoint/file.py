"""`detector.ckpt`: the one artefact that training leaves and evaluation needs.

A plain dictionary of tensors, numbers, text, lists and dictionaries, written by `torch.save` and
read with `weights_only=True`: no class is restored from the file, networks are built from their
specs and filled.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.checkpoint.schema import check_content, damaged
from diffguard.checkpoint.versions import VERSION, upgraded
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.build import empty_context, wrap_parts
from diffguard.denoisers.custom import build_any_denoiser, weight_parts
from diffguard.denoisers.reference import load_reference
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.scores.baselines import Reference
from diffguard.scores.calibration import Calibration
from diffguard.settings.checks import check_settings
from diffguard.settings.detector import DetectorSettings, from_dict, score_names, to_dict
from diffguard.storage.environment import installed_versions
from diffguard.storage.files import replace_file
from diffguard.storage.paths import expand_home, user_path
from diffguard.storage.sizes import check_fit, trial
from diffguard.storage.state_dict import fill
from diffguard.storage.weights import load_tensors

FORMAT = "diffguard-detector"
_LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "timm", "pytorch-ood")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares no text with anything else: pickle writes text that is shared once."""
    copied: dict[str, Any] = json.loads(json.dumps(values))
    return copied


def save_detector(
    path: str | Path,
    detector: Detector,
    classifier_spec: ClassifierSpec,
    diffusion_spec: DiffusionSpec,
    config: Mapping[str, Any],
    *,
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Write a detector with everything that evaluation needs.

    Args:
        path: File to write; an older one is replaced at once or not at all.
        detector: A calibrated detector.
        classifier_spec: What its classifier is.
        diffusion_spec: What its diffusion model is.
        config: The config of the run, plain values only; its `data` section is what
            `evaluate.py` evaluates on by default.
        weights: What `diffusion_weights` gives for the diffusion model; None takes those of the
            detector.
    """
    calibration, reference = detector.calibration, detector.reference
    if calibration is None:
        raise UserError("only a calibrated detector can be saved")
    if not isinstance(detector.denoiser, nn.Module):
        raise UserError(
            "only a detector whose denoiser is a torch.nn.Module can be saved: derive "
            f"{type(detector.denoiser).__name__} from it"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "classifier": {
            "spec": _plain(asdict(classifier_spec)),
            "state": _on_cpu(detector.classifier.network),
        },
        "diffusion": {
            "spec": _plain(asdict(diffusion_spec)),
            **(weights or diffusion_weights(detector.denoiser)),
        },
        "noisy_classifier": None
        if detector.noisy_classifier is None
        else _on_cpu(detector.noisy_classifier),
        "settings": _plain(to_dict(detector.settings)),
        "image": {"size": detector.image_size, "channels": detector.image_channels},
        "seed": detector.seed,
        "calibration": {"scores": calibration.scores},
        "reference": None
        if reference is None
        else {"features": reference.features.cpu(), "labels": reference.labels.cpu()},
        "config": _plain(dict(config)),
        "libraries": library_versions(),
    }
    with replace_file(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_detector(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    trusted: str | Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    diffusion: str | None = None,
) -> Detector:
    """Load a detector.

    Args:
        path: A `detector.ckpt`.
        device: Where to put it.
        trusted: Import paths of further classes that the file may name.
        settings: Settings instead of the stored ones, in full.
        diffusion: Where a diffusion model that the file refers to lies now, if it was moved.

    Raises:
        UserError: For a file that is missing, foreign, damaged, of another version, or that holds
            anything but plain data.
    """
    detector = detector_from(
        read_checkpoint(path),
        trusted=trusted,
        settings=settings,
        folder=user_path(path, "checkpoint").parent,
        diffusion=None if diffusion is None else expand_home(diffusion, "diffusion"),
    )
    return detector.to(device)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `detector.ckpt` as plain data, without building anything.

    Raises:
        UserError: As `load_detector`.
    """
    content = load_tensors(user_path(path, "checkpoint"))
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} is no detector checkpoint: expected the detector.ckpt that train.py writes"
        )
    if content.get("version") not in (1, VERSION):
        raise UserError(
            f"{path} has format version {content.get('version')}, this program reads 1 and "
            f"{VERSION}: train again, or use the version of the program that wrote it"
        )
    content = upgraded(content)
    check_content(content, str(path))
    return content


def detector_from(
    content: Mapping[str, Any],
    *,
    trusted: str | Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    diffusion: str | None = None,
) -> Detector:
    """Build the detector of a checkpoint that was read.

    Args:
        content: What `read_checkpoint` gave.
        trusted: See `load_detector`.
        settings: See `load_detector`.
        folder: Folder of the file, against which a reference to a model inside it is resolved.
        diffusion: See `load_detector`.

    Raises:
        UserError: Where the content does not fit together.
    """
    check_content(content, "the detector checkpoint")
    classifier_spec, diffusion_spec = specs_of(content)
    classifier = build_classifier(
        classifier_spec,
        resolved=True,
        trusted=trusted,
        state=content["classifier"]["state"],
    )
    stored = content["diffusion"]
    if stored.get("reference") is None:
        denoiser = _stored_denoiser(stored, diffusion_spec, diffusion, trusted)
    else:
        denoiser = _referenced_denoiser(stored, diffusion_spec, folder or Path(), diffusion)
    noisy, reference = content["noisy_classifier"], content["reference"]
    if reference is not None:
        _check_width(reference["features"], classifier)
    own = from_dict(content["settings"] if settings is None else settings)
    check_settings(own, content["image"]["size"])
    scores = content["calibration"]["scores"]
    _check_scores(scores, own)
    return Detector(
        classifier,
        denoiser,
        own,
        image_size=content["image"]["size"],
        image_channels=content["image"]["channels"],
        reference=None if reference is None else Reference(**reference),
        calibration=Calibration(scores, own.fusion_rule()),
        noisy_classifier=None if noisy is None else timed_cnn(noisy),
        seed=content["seed"],
    )


def _check_width(features: Tensor, classifier: Classifier) -> None:
    head = classifier.head
    if head is not None and features.shape[1] != head.in_features:
        raise damaged(
            "the detector checkpoint",
            f"its reference features are {features.shape[1]} wide, and those of the classifier "
            f"{head.in_features}",
        )


def _check_scores(scores: Mapping[str, Tensor], settings: DetectorSettings) -> None:
    """Make sure that everything which the settings decide by was calibrated."""
    names = {*score_names(settings, derived=False), settings.decision}
    absent = sorted(names - set(scores))
    if absent:
        raise UserError(
            f"the detector checkpoint has no calibration scores of {absent[0]}: calibrate again "
            "with train.py, or decide by a score that it has"
        )


def specs_of(content: Mapping[str, Any]) -> tuple[ClassifierSpec, DiffusionSpec]:
    """What the networks of a checkpoint are."""
    return (
        ClassifierSpec(**_known(ClassifierSpec, content["classifier"]["spec"])),
        DiffusionSpec(**_known(DiffusionSpec, content["diffusion"]["spec"])),
    )


def timed_cnn(state: Mapping[str, Tensor]) -> TimedCNN:
    """The classifier of noisy images that some weights belong to."""
    first, last = state.get("stages.0.0.weight"), state.get("fc.bias")
    if first is None or last is None or first.ndim != 4 or last.ndim != 1 or not first.numel():
        raise UserError("the weights do not fit the classifier of noisy images")
    build = partial(TimedCNN, len(last), first.shape[1], first.shape[0])
    check_fit(trial(build, "the classifier of noisy images"), state, "classifier of noisy images")
    network = build()
    fill(network, state, "classifier of noisy images")
    return network


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {"python": platform.python_version(), **installed_versions(_LIBRARIES)}


def diffusion_weights(denoiser: Any, reference: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint keeps of a diffusion model's weights, as plain data.

    Args:
        denoiser: The model.
        reference: What `diffguard.denoisers.reference.refer` returns for it: the model is then
            named instead of
            copied, but for the context of its labels, which may come from prompts.
    """
    parts = {name: _on_cpu(module) for name, module in weight_parts(denoiser).items()}
    if reference is not None:
        parts = {name: state for name, state in parts.items() if name == "context"}
        return {"state": None, "parts": parts, "reference": dict(reference)}
    return {"state": parts.pop("network"), "parts": parts, "reference": None}


def _stored_denoiser(
    content: Mapping[str, Any],
    spec: DiffusionSpec,
    instead: str | None,
    trusted: str | Collection[str],
) -> Any:
    """The diffusion model whose weights the checkpoint holds."""
    if instead is not None:
        raise UserError(
            "the detector holds its diffusion model itself: leave out --diffusion_model, or train "
            "with diffusion.store reference"
        )
    states = {**content.get("parts", {}), "network": content["state"]}
    denoiser = build_any_denoiser(spec, trusted, states)
    for name, module in weight_parts(denoiser).items():
        _fill_part(name, module, states.get(name, {}))
    return denoiser


def _referenced_denoiser(
    content: Mapping[str, Any], spec: DiffusionSpec, folder: Path, instead: str | None
) -> Any:
    """The diffusion model that the checkpoint names, with the context that it holds."""
    parts, states = load_reference(content["reference"], folder, instead), content.get("parts", {})
    if set(states) - {"context"}:
        raise UserError("the detector checkpoint holds parts of the model that it refers to")
    if "context" in states:
        if spec.context is None:
            raise UserError("the detector checkpoint holds a context that its model does not take")
        parts.context = empty_context(spec.context, states)
    parts.num_classes, parts.null_class = spec.num_classes, spec.null_class
    denoiser = wrap_parts(parts, spec)
    for name, state in states.items():
        _fill_part(name, denoiser.parts()[name], state)
    return denoiser


def _fill_part(name: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    fill(module, state, "diffusion model" if name == "network" else f"diffusion model's {name}")


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
