"""Building the parts of a detector from the content of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffguard.checkpoint.file import read_checkpoint
from diffguard.checkpoint.fits import unfit_names
from diffguard.checkpoint.parts import DetectorParts, Origin
from diffguard.checkpoint.schema import check_content, damaged
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.build import empty_context, wrap_parts
from diffguard.denoisers.custom import build_any_denoiser, is_import_path, weight_parts
from diffguard.denoisers.reference import load_reference, source_of
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import DIFFGUARD
from diffguard.scores.reconstruction import ReconstructionQuality
from diffguard.scores.reference import Reference
from diffguard.settings.decision import fallback_warning
from diffguard.settings.detector import AUTO, DetectorSettings, score_names
from diffguard.settings.image_size import check_image_size
from diffguard.settings.plain import from_dict
from diffguard.storage.paths import expand_home, user_path
from diffguard.storage.sizes import check_fit, trial
from diffguard.storage.state_dict import fill


def read_parts(
    path: str | Path,
    *,
    trusted: str | Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    diffusion: str | None = None,
) -> DetectorParts:
    """Read a `detector.ckpt` and build the parts of the detector, on the CPU.

    Warns if `decision: auto` decides by the baselines alone.

    Args:
        path: A `detector.ckpt`.
        trusted: Import paths of further classes that the file may name.
        settings: Settings instead of the stored ones, in full.
        diffusion: Present path of a diffusion model that the file refers to, if it was moved.

    Raises:
        UserError: For a file that is missing, foreign, damaged, of another version, or that holds
            anything but plain data.
    """
    parts = build_parts(
        read_checkpoint(path),
        trusted=trusted,
        settings=settings,
        folder=user_path(path, "checkpoint").parent,
        diffusion=None if diffusion is None else expand_home(diffusion, "diffusion"),
    )
    if text := fallback_warning(parts.settings, parts.calibration):
        warnings.warn(text, stacklevel=3)
    return parts


def build_parts(
    content: Mapping[str, Any],
    *,
    trusted: str | Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    diffusion: str | None = None,
) -> DetectorParts:
    """Build the parts of the detector of a checkpoint, on the CPU.

    Args:
        content: What `read_checkpoint` returned.
        trusted: See `read_parts`.
        settings: See `read_parts`.
        folder: Folder of the file, against which a reference to a model inside it is resolved.
        diffusion: See `read_parts`.

    Raises:
        UserError: If the content does not fit together.
    """
    check_content(content, "the detector checkpoint")
    classifier_spec, diffusion_spec = specs_of(content)
    classifier = build_classifier(
        classifier_spec,
        resolved=True,
        trusted=trusted,
        state=content["classifier"]["state"],
    )
    diffusion_content = content["diffusion"]
    if diffusion_content.get("reference") is None:
        denoiser = _stored_denoiser(diffusion_content, diffusion_spec, diffusion, trusted)
        source = None
    else:
        denoiser = _referenced_denoiser(
            diffusion_content, diffusion_spec, folder or Path(), diffusion
        )
        source = source_of(diffusion_content["reference"], folder or Path(), diffusion)
    _check_images(content["image"], diffusion_spec)
    noisy, reference = content["noisy_classifier"], content["reference"]
    if reference is not None:
        _check_width(reference["features"], classifier)
    detector_settings = from_dict(content["settings"] if settings is None else settings)
    check_image_size(detector_settings.reconstruction_distances, content["image"]["size"])
    calibration = content["calibration"]
    features, quality = calibration.get("features"), calibration.get("quality")
    if features is not None:
        _check_width(features, classifier)
    _check_scores(calibration["scores"], detector_settings)
    return DetectorParts(
        classifier,
        denoiser,
        detector_settings,
        image_size=content["image"]["size"],
        image_channels=content["image"]["channels"],
        reference=None if reference is None else Reference(**reference),
        calibration=Calibration(
            calibration["scores"],
            detector_settings.fusion_rule(),
            features,
            calibration.get("passes"),
            None if quality is None else ReconstructionQuality(**quality),
        ),
        noisy_classifier=None if noisy is None else timed_cnn(noisy),
        seed=content["seed"],
        fits=_fits(content, detector_settings, classifier.num_classes),
        origin=Origin(classifier_spec, diffusion_spec, source, content["config"]),
    )


def _check_images(image: Mapping[str, int], spec: DiffusionSpec) -> None:
    """Make sure that the detector and its diffusion model agree on the working images."""
    theirs = (spec.image_size, spec.image_channels)
    if not is_import_path(spec.network) and theirs != (image["size"], image["channels"]):
        raise damaged(
            "the detector checkpoint",
            f"its images have {image['size']} pixels a side and {image['channels']} channels, and "
            f"those of its diffusion model {theirs[0]} and {theirs[1]}",
        )


def _check_width(features: Tensor, classifier: Classifier) -> None:
    head = classifier.head
    if head is not None and features.shape[1] != head.in_features:
        raise damaged(
            "the detector checkpoint",
            f"its features are {features.shape[1]} wide, and those of the classifier "
            f"{head.in_features}",
        )


def _check_scores(scores: Mapping[str, Tensor], settings: DetectorSettings) -> None:
    """Make sure that all scores which the settings use were calibrated."""
    names = {*score_names(settings, derived=False), DIFFGUARD}
    if settings.decision != AUTO:
        names.add(settings.decision)
    absent = sorted(names - set(scores))
    if absent:
        raise UserError(
            f"the detector checkpoint has no calibration scores of {absent[0]}: calibrate "
            "again, or decide by a score that it has"
        )


def _fits(
    content: Mapping[str, Any], settings: DetectorSettings, classes: int
) -> dict[str, Mapping[str, Tensor]]:
    """The fits of methods and baselines, without those that other settings need again."""
    fits = content.get("fits", {})
    if not fits:
        return {}
    if names := unfit_names(fits, from_dict(content["settings"]), classes):
        raise damaged(
            "the detector checkpoint",
            f"the fit of {names[0]} is not one that calibration makes with its settings",
        )
    changed = unfit_names(fits, settings, classes)
    return {name: state for name, state in fits.items() if name not in changed}


def specs_of(content: Mapping[str, Any]) -> tuple[ClassifierSpec, DiffusionSpec]:
    """The specs of the classifier and the diffusion model of a checkpoint."""
    return (
        ClassifierSpec(**_known(ClassifierSpec, content["classifier"]["spec"])),
        DiffusionSpec(**_known(DiffusionSpec, content["diffusion"]["spec"])),
    )


def timed_cnn(state: Mapping[str, Tensor]) -> TimedCNN:
    """Build the classifier of noisy images from its weights."""
    first, last = state.get("stages.0.0.weight"), state.get("fc.bias")
    if first is None or last is None or first.ndim != 4 or last.ndim != 1 or not first.numel():
        raise UserError("the weights do not fit the classifier of noisy images")
    build = partial(TimedCNN, len(last), first.shape[1], width=first.shape[0])
    check_fit(trial(build, "the classifier of noisy images"), state, "classifier of noisy images")
    network = build()
    fill(network, state, "classifier of noisy images")
    return network


def _stored_denoiser(
    content: Mapping[str, Any],
    spec: DiffusionSpec,
    instead: str | None,
    trusted: str | Collection[str],
) -> Any:
    """The diffusion model whose weights the checkpoint holds."""
    if instead is not None:
        raise UserError(
            "the detector holds its diffusion model itself: leave out `diffusion` "
            "(--diffusion_model), or train with diffusion.store reference"
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


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in values.items() if name in names}
