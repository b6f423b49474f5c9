"""The options `--detector.*`.

The parser has the sections of both forms of guidance. The one that `detector.guidance` names is in
use. A form that the command line or a config file names replaces the other one that comes from a
config below; a section that is given beside another form is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import FORMS, Form, unused_section
from diffguard.settings.plain import from_dict

_KEY = "detector"


def add_detector_options(parser: ArgumentParser) -> None:
    """Add the settings of a detector to a command line."""
    parser.add_class_arguments(DetectorSettings, _KEY, skip={"guidance"}, instantiate=False)
    default = DetectorSettings().guidance.form
    groups: Any = parser.groups
    groups[_KEY].add_argument(
        f"--{_KEY}.guidance", type=Form, default=default, help="form of guidance; it has a section"
    )
    for form, settings in FORMS.items():
        parser.add_argument(f"--{_KEY}.{form}", type=settings, default=settings())


def replace_guidance(values: Namespace) -> Namespace:
    """Values of one config file, which replace the guidance of configs below if they name a form.

    Raises:
        UserError: If the file has a section of another form than it names.
    """
    guidance = values.get(f"{_KEY}.guidance")
    for form in FORMS if guidance in FORMS else ():
        if form != guidance and f"{_KEY}.{form}" in values:
            raise unused_section(form, guidance)
        if form != guidance:
            values[f"{_KEY}.{form}"] = _defaults(form)
    return values


def without_unused_guidance(values: Namespace, argv: Sequence[str]) -> Namespace:
    """Parsed values without the section of the form of guidance that is not in use.

    Args:
        values: The values of all configs and of the command line.
        argv: The command line.

    Raises:
        UserError: If the section was given.
    """
    if not isinstance(values.get(_KEY), Namespace):
        return values
    values = values.clone()
    keys = [word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")]
    guidance, is_option = values[_KEY].guidance, f"{_KEY}.guidance" in keys
    for form in FORMS:
        if form == guidance:
            continue
        section = values[_KEY].pop(form, None)
        is_set = any(f"{key}.".startswith(f"{_KEY}.{form}.") for key in keys)
        if is_set or (section not in (None, _defaults(form)) and not is_option):
            raise unused_section(form, guidance)
    return values


def instantiate(parser: ArgumentParser, values: Namespace) -> Namespace:
    """Build the objects of parsed values; `detector` becomes settings.

    Raises:
        UserError: For settings that are out of range or contradict each other.
    """
    rest = values.clone()
    settings = from_dict(rest.pop(_KEY).as_dict())
    namespace = parser.instantiate(rest)
    namespace[_KEY] = settings
    return namespace


def _defaults(form: Form) -> Namespace:
    return _namespace(asdict(FORMS[form]()))


def _namespace(values: Mapping[str, Any]) -> Namespace:
    return Namespace(
        **{
            key: _namespace(item) if isinstance(item, dict) else item
            for key, item in values.items()
        }
    )
