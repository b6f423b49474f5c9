"""Settings as plain nested dictionaries, for a checkpoint, a manifest or a config.

`guidance` is the name of the form of guidance there, and the section of that name holds its
settings: `{"guidance": "classifier_free", "classifier_free": {"scale": 3.0, …}, …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import (
    FORMS,
    ClassifierFreeSettings,
    GuidanceSettings,
    unused_section,
)
from diffguard.settings.old_keys import refuse_old_keys
from diffguard.storage.schema import validated_plain


def to_dict(settings: DetectorSettings) -> dict[str, Any]:
    """Settings as plain nested dictionaries that share nothing with them."""
    form = settings.guidance.form
    plain: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        plain |= {"guidance": form, form: value} if name == "guidance" else {name: value}
    return plain


def from_dict(values: Mapping[str, Any]) -> DetectorSettings:
    """Settings from plain nested dictionaries; a setting that is not named has its default.

    Raises:
        UserError: For a key that is not a setting, and for values that the settings refuse.
    """
    kind, section, rest = _split_guidance(values)
    return _build(DetectorSettings, {**rest, "guidance": _build(kind, section)})


def check_types(values: Mapping[str, Any], source: str) -> None:
    """Check plain settings from a file: keys, types and ranges.

    Args:
        values: The settings.
        source: Where they were read; the error begins with it.

    Raises:
        UserError: For the first value that does not fit.
    """
    kind, section, rest = _split_guidance(values)
    validated_plain(kind, section, f"{source}.{kind.form}")
    validated_plain(DetectorSettings, rest, source)


def with_guidance(
    values: Mapping[str, Any], form: str, section: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain settings with another form of guidance; the original is unchanged."""
    rest = {name: value for name, value in values.items() if name not in FORMS}
    return {**rest, "guidance": form, form: dict(section)}


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings that an earlier version wrote, with the defaults of keys that it lacked.

    Args:
        values: Settings in full, with present names. Parts of another type than expected are left
            as they are.
    """
    form = values.get("guidance")
    kind = next((FORMS[name] for name in FORMS if name == form), ClassifierFreeSettings)
    defaults = to_dict(DetectorSettings(guidance=kind()))
    full = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(full[name], Mapping):
            full[name] = {**default, **full[name]}
    return full


def _split_guidance(
    values: Mapping[str, Any],
) -> tuple[type[GuidanceSettings], Mapping[str, Any], dict[str, Any]]:
    """The class of the guidance, its section, and the settings without both."""
    refuse_old_keys(values)
    form = values.get("guidance", ClassifierFreeSettings.form)
    if not isinstance(form, str) or form not in FORMS:
        raise UserError(f"detector.guidance must be {' or '.join(FORMS)}, got {form!r}")
    for other in FORMS:
        if other != form and other in values:
            raise unused_section(other, form)
    rest = {name: value for name, value in values.items() if name not in ("guidance", form)}
    return FORMS[form], values.get(form, {}), rest


def _build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    names = [field.name for field in fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise UserError(f"{unknown[0]!r} is not a detector setting, expected one of {names}")
    defaults = cls()
    arguments = {}
    for name, value in values.items():
        default = getattr(defaults, name)
        section = is_dataclass(default) and isinstance(value, Mapping)
        arguments[name] = _build(type(default), value) if section else value
    return cls(**arguments)
