"""Keys of settings that have another name now.

Files that hold them are refused with the new name if a user wrote them, and translated if the
program did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffguard.errors import UserError
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings

_FREE, _CLASSIFIER = ClassifierFreeSettings.form, ClassifierGuidanceSettings.form
# Key in the former section `guidance` -> the keys that may stand for it.
_KEYS = {
    "kind": ("guidance",),
    "scale": (f"{_FREE}.scale", f"{_CLASSIFIER}.scale"),
    "cam_cut": (f"{_FREE}.cam_cut",),
    "classifier": (f"{_CLASSIFIER}.model",),
    "blend": (f"{_CLASSIFIER}.blend",),
    "crops": (f"{_CLASSIFIER}.crops",),
    "extra_start": ("synthesis.extra_start",),
    "skip": ("synthesis.skip",),
    "label": ("label",),
}


def refuse_old_keys(settings: Any) -> None:
    """Refuse plain settings of a detector in which `guidance` is a section.

    Raises:
        UserError: Naming each old key in it and the new one.
    """
    if isinstance(settings, Mapping) and isinstance(settings.get("guidance"), Mapping):
        section = settings["guidance"]
        lines = [_advice(key, section.get("kind")) for key in section if key in _KEYS]
        raise UserError(
            "; ".join(lines) or "detector.guidance is now classifier_free or classifier"
        )


def refuse_old_option(word: str) -> None:
    """Refuse a word of a command line that is an option of the former section `guidance`.

    Raises:
        UserError: Naming the old key and the new one.
    """
    path = word.partition("=")[0].removeprefix("--detector.guidance.")
    key, dot, rest = path.partition(".")
    if word.startswith("--detector.guidance.") and key in _KEYS:
        raise UserError(_advice(key, None, dot + rest))


def _advice(key: str, form: Any, rest: str = "") -> str:
    names = _KEYS[key]
    if len(names) > 1 and form in (_FREE, _CLASSIFIER):
        names = (f"{form}.{key}",)
    new = " or ".join(f"detector.{name}{rest}" for name in names)
    return f"detector.guidance.{key}{rest} is now {new}"


def translated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings of a detector with present keys, in their order; the scores stay the same.

    Args:
        settings: Settings in full that this program or an earlier version wrote. Parts of another
            type than expected are left as they are.
    """
    new: dict[str, Any] = {}
    for key, value in settings.items():
        new |= _sections(value) if key == "guidance" else {key: value}
    return new


def _sections(guidance: Any) -> dict[str, Any]:
    """The settings of the former section `guidance`."""
    if not isinstance(guidance, Mapping):
        return {"guidance": guidance}
    form = guidance.get("kind", _FREE)
    unused = ("classifier", "blend", "crops") if form == _FREE else ("cam_cut",)
    elsewhere = ("kind", "extra_start", "skip", "label", *unused)
    section = {
        "model" if key == "classifier" else key: value
        for key, value in guidance.items()
        if key not in elsewhere
    }
    sections: dict[str, Any] = {
        "synthesis": {key: guidance[key] for key in ("extra_start", "skip") if key in guidance},
        "guidance": form,
        _FREE if form == _FREE else _CLASSIFIER: section,
    }
    return sections | ({"label": guidance["label"]} if "label" in guidance else {})
