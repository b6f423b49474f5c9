"""The versions of the checkpoint's format, and how content of an earlier one is read.

1. The first.
2. `ssim` averages the windows that lie inside the image. The score that version 1 called `ssim`
   mirrors the borders; its name is now `ssim_reflect`. Settings without effect are refused; those
   that a checkpoint of version 1 holds are replaced by the defaults. Network classes of the project
   have other import paths.
3. Each form of guidance has a section of settings of its own.
4. GEN averages over `gen_classes` classes; earlier versions average over all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierGuidanceSettings, CropSettings
from diffguard.settings.old_keys import translated
from diffguard.settings.sections import InversionSettings, SynthesisSettings

VERSION = 4
# The versions that `upgraded` takes.
READABLE = range(1, VERSION + 1)

# Import paths of classes in version 1, and where the classes are now.
_MOVED = {
    "diffguard.networks.": "diffguard.classifiers.small_cnn.",
    "diffguard.networks_openood.": "diffguard.classifiers.openood.",
}
# Settings that name distances or the scores made of them.
_NAMING = ("distances", "unguided", "distance", "decision")


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of any readable version as content of the present one; the scores stay the same.

    Args:
        content: A checkpoint's content, of a version in `READABLE`. Parts of another type than
            expected are left as they are.
    """
    content = dict(content)
    if content["version"] == VERSION:
        return content
    first = content["version"] == 1
    content["version"] = VERSION
    classes = _classes(content.get("classifier"))

    def present(settings: Any) -> Any:
        return with_all_classes(_settings(settings, first=first), classes)

    content["settings"] = present(content.get("settings"))
    config = content.get("config")
    if isinstance(config, Mapping) and "detector" in config:
        content["config"] = {**config, "detector": present(config["detector"])}
    return _with_present_names(content) if first else content


def with_all_classes(settings: Any, classes: Any) -> Any:
    """Plain settings with which GEN averages over all classes, unless they have `gen_classes`.

    Args:
        settings: The settings. Values of another type than expected are left as they are.
        classes: The classifier's number of classes.
    """
    is_readable = isinstance(settings, Mapping) and isinstance(classes, int)
    if is_readable and classes > DetectorSettings.gen_classes:
        return {"gen_classes": classes, **settings}
    return settings


def _settings(settings: Any, *, first: bool) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    settings = translated(settings)
    return _without_unused(_with_present_distances(settings)) if first else settings


def _classes(classifier: Any) -> Any:
    """The number of classes, if the classifier's specification names it."""
    spec = classifier.get("spec") if isinstance(classifier, Mapping) else None
    return spec.get("num_classes") if isinstance(spec, Mapping) else None


def _with_present_names(content: dict[str, Any]) -> dict[str, Any]:
    """Content of version 1 with the present import paths of classes and names of scores."""
    config = content.get("config")
    if isinstance(config, Mapping) and "classifier" in config:
        content["config"] = {**config, "classifier": _spec(config["classifier"])}
    classifier = content.get("classifier")
    if isinstance(classifier, Mapping) and "spec" in classifier:
        content["classifier"] = {**classifier, "spec": _spec(classifier["spec"])}
    calibration = content.get("calibration")
    if isinstance(calibration, Mapping) and isinstance(calibration.get("scores"), Mapping):
        content["calibration"] = {**calibration, "scores": _renamed(calibration["scores"])}
    return content


def _with_present_distances(settings: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: _renamed(settings[name]) for name in _NAMING if name in settings}
    stop = settings.get("early_stop")
    if isinstance(stop, Mapping) and "thresholds" in stop:
        sections["early_stop"] = {**stop, "thresholds": _renamed(stop["thresholds"])}
    return {**settings, **sections}


def _without_unused(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which values without effect, which version 1 allowed, are the defaults."""
    inversion, synthesis = settings.get("inversion"), settings.get("synthesis")
    if isinstance(inversion, Mapping) and inversion.get("condition") != "guided":
        settings["inversion"] = {**inversion, "scale": InversionSettings.scale}
    if isinstance(synthesis, Mapping) and synthesis.get("skip") is not None:
        settings["synthesis"] = {**synthesis, "extra_start": SynthesisSettings.extra_start}
    if settings.get("combine") != "tandem":
        settings["tandem_band"] = DetectorSettings().tandem_band
    form = ClassifierGuidanceSettings.form
    guidance = settings.get(form)
    if isinstance(guidance, Mapping) and isinstance(guidance.get("crops"), Mapping):
        settings[form] = {**guidance, "crops": _used_crops(guidance["crops"])}
    return settings


def _used_crops(crops: Mapping[str, Any]) -> dict[str, Any]:
    if not crops.get("number"):
        return asdict(CropSettings())
    return dict(crops) if crops.get("shared") else {**crops, "seed": CropSettings.seed}


def _spec(spec: Any) -> Any:
    """A classifier's specification with the present import path of its class."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("arch"), str):
        return spec
    arch = spec["arch"]
    for old, new in _MOVED.items():
        arch = arch.replace(old, new) if arch.startswith(old) else arch
    return {**spec, "arch": arch}


def _renamed(names: Any) -> Any:
    """A name, a list of names or a mapping by names, with `ssim_reflect` instead of `ssim`."""
    if isinstance(names, str):
        return re.sub(r"(^|/)ssim$", r"\1ssim_reflect", names)
    if isinstance(names, list):
        return [_renamed(name) for name in names]
    if isinstance(names, Mapping):
        return {_renamed(name): value for name, value in names.items()}
    return names
