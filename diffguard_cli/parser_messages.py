"""Plain messages about wrong values, from those of the parser.

jsonargparse writes Python types, and the errors of all members of a union.
"""

from __future__ import annotations

import re

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as '[a, b]'",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[str]": "a list of names such as '[a, b]'",
    "tuple[str, ...]": "a list of names such as '[a, b]'",
    "dict": "names and values such as '{name: value}', with a space after the colon",
    "NoneType": "null",
}
_TYPE = re.compile(
    r"<class '(\w+)'>|typing\.Literal\[([^\]]*)\]|(list\[\w+\]|tuple\[str, \.{3}\])|(dict)\["
)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*"
    r"(?:Given value|Got value):\s*(.*)$"
)
_SINGLE = re.compile(r"Expected a (<class '\w+'>|typing\.Literal\[[^\]]*\])\. Got value:\s*(.*)$")
_COUNT = re.compile(r"Expected a tuple with (\d+) elements\. Got value:")
_SECTION = re.compile(r"Unable to load config .*$")
_IMPORT = re.compile(r"Importing '[^']*' is not allowed, .*$")
_UNKNOWN = re.compile(r"Group '([\w.]+)' does not accept option '([^']*)'")
_CONTENT = re.compile(r"(Unexpected config: .{60}).*$")
_KEYS_OR_FILE = "expected its keys and values, or a YAML file with them"
_MAX_CHARACTERS = 200
_AS_YAML = {"": "nothing", "None": "null", "True": "true", "False": "false"}


def plain_message(text: str) -> str:
    """Rewrite a one-line message of the parser with the types and values of YAML."""
    for pattern in (_UNION, _SINGLE):
        if match := pattern.search(text):
            return text[: match.start()] + _expected(*match.groups())
    text = _COUNT.sub(r"expected \1 values, got", text)
    text = _IMPORT.sub(f"{_KEYS_OR_FILE}, not the name of a class", text)
    text = _SECTION.sub(_KEYS_OR_FILE, text)
    text = _CONTENT.sub(r"\1…", text)
    return _UNKNOWN.sub(r"\1 has no key '\2'", text)


def _expected(types: str, value: str) -> str:
    names: list[str] = []
    for plain, choices, of, mapping in _TYPE.findall(types):
        if choices:
            names += re.findall(r"'([^']*)'", choices)
        else:
            names.append(_NAMES.get(plain or of or mapping, plain or of or mapping))
    *others, last = sorted(dict.fromkeys(names), key=lambda name: name == "null")
    before = ", ".join(others)
    expected = f"{before}{',' * (',' in before)} or {last}" if others else last
    value = value if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]}…"
    return f"expected {expected}, got {_AS_YAML.get(value, value)}"
