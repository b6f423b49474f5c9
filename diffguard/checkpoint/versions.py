"""What changed between the versions of the checkpoint's format, and how old content is read.

1. The first.
2. `ssim` averages the windows that lie inside the image. What version 1 called `ssim` mirrors the
   borders, and is `ssim_reflect` now. Settings without effect are refused; those that a checkpoint
   of version 1 holds are replaced by the defaults. Network classes of the project have other
   import paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffguard.settings.effect import without_idle

VERSION = 2

# Import paths of classes in version 1, and where the classes are now.
_MOVED = {
    "diffguard.networks.": "diffguard.classifiers.small_cnn.",
    "diffguard.networks_openood.": "diffguard.classifiers.openood.",
}
# Settings that name distances or the scores made of them.
_NAMING = ("distances", "unguided", "distance", "decision")


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of any version as that of the present one; the scores stay the same.

    Args:
        content: A checkpoint's content, of a version that can be read. Parts of another type than
            expected are left as they are.
    """
    content = dict(content)
    if content["version"] == VERSION:
        return content
    content["version"] = VERSION
    content["settings"] = _settings(content.get("settings"))
    config = content.get("config")
    if isinstance(config, Mapping):
        content["config"] = config = dict(config)
        if "detector" in config:
            config["detector"] = _settings(config["detector"])
        if "classifier" in config:
            config["classifier"] = _spec(config["classifier"])
    classifier = content.get("classifier")
    if isinstance(classifier, Mapping) and "spec" in classifier:
        content["classifier"] = {**classifier, "spec": _spec(classifier["spec"])}
    calibration = content.get("calibration")
    if isinstance(calibration, Mapping) and isinstance(calibration.get("scores"), Mapping):
        content["calibration"] = {**calibration, "scores": _renamed(calibration["scores"])}
    return content


def _settings(settings: Any) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    changed = {name: _renamed(settings[name]) for name in _NAMING if name in settings}
    stop = settings.get("early_stop")
    if isinstance(stop, Mapping) and "thresholds" in stop:
        changed["early_stop"] = {**stop, "thresholds": _renamed(stop["thresholds"])}
    try:
        return without_idle({**settings, **changed})
    except (KeyError, TypeError):
        # Not the settings of version 1: what reads them says so.
        return {**settings, **changed}


def _spec(spec: Any) -> Any:
    """A classifier's description with the present import path of its class."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("arch"), str):
        return spec
    arch = spec["arch"]
    for old, new in _MOVED.items():
        arch = arch.replace(old, new) if arch.startswith(old) else arch
    return {**spec, "arch": arch}


def _renamed(names: Any) -> Any:
    """A name, a list of names or a mapping by names, `ssim` being `ssim_reflect`."""
    if isinstance(names, str):
        return re.sub(r"(^|/)ssim$", r"\1ssim_reflect", names)
    if isinstance(names, list):
        return [_renamed(name) for name in names]
    if isinstance(names, Mapping):
        return {_renamed(name): value for name, value in names.items()}
    return names
