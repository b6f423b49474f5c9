"""Settings that would change nothing beside others, so that none is given in vain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings, to_dict

Values = Mapping[str, Any]


def _free(s: Values) -> bool:
    return bool(s["guidance"]["kind"] == "classifier_free")


def _whole(s: Values) -> bool:
    return not s["guidance"]["crops"]["number"]


# Setting -> when it has no effect, and what it belongs to.
_RULES: dict[str, tuple[Callable[[Values], bool], str]] = {
    "inversion.scale": (
        lambda s: s["inversion"]["condition"] != "guided",
        "detector.inversion.condition guided",
    ),
    "guidance.blend": (_free, "detector.guidance.kind classifier"),
    "guidance.crops.size": (_whole, "a detector.guidance.crops.number above 0"),
    "guidance.crops.reduction": (_whole, "a detector.guidance.crops.number above 0"),
    "guidance.crops.shared": (_whole, "a detector.guidance.crops.number above 0"),
    "guidance.crops.seed": (
        lambda s: not s["guidance"]["crops"]["shared"],
        "detector.guidance.crops.shared true",
    ),
    "guidance.extra_start": (
        lambda s: s["guidance"]["skip"] is not None,
        "a start that follows the inversion, without detector.guidance.skip",
    ),
    "tandem_band": (lambda s: s["combine"] != "tandem", "detector.combine tandem"),
}


def check_effect(settings: DetectorSettings) -> None:
    """Refuse settings that were changed and have no effect beside the others.

    Raises:
        UserError: Naming the setting and what it belongs to.
    """
    values = to_dict(settings)
    for name, (idle, owner) in _RULES.items():
        value = _at(values, name.split("."))
        if value != _default(name) and idle(values):
            raise UserError(
                f"detector.{name} {value} has no effect here: it belongs to {owner}; leave it out, "
                "or change that"
            )


def without_idle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings whose values without effect are the defaults, so that they are not refused.

    Args:
        settings: What `to_dict` gave, of any version.
    """
    plain: dict[str, Any] = deepcopy(dict(settings))
    for name, (idle, _) in _RULES.items():
        if idle(plain):
            *path, last = name.split(".")
            section = _at(plain, path)
            section[last] = _default(name)
    return plain


def _default(name: str) -> Any:
    return _at(to_dict(DetectorSettings()), name.split("."))


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values
