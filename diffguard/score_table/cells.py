r"""Text in cells of CSV files: safe in spreadsheets, and restored exactly.

Most text is written unchanged. Text is escaped if it begins with a sign that spreadsheets take for
a formula (`=`, `+`, `-`, `@` and their wide forms) or with `'`, or if it contains control
characters or bytes of a file name that are not UTF-8. Escaped text begins with `'`; in it, `\\` is
a backslash, `\xe9` a byte and `\u001b` a character.
"""

from __future__ import annotations

import re

_NEEDS_ESCAPE = re.compile(r"^['=+\-@＝＋－＠]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4}))")
# Code points by which Python represents bytes of a file name that are not UTF-8.
_BYTES = 0xDC00


def to_cell(text: str) -> str:
    """The cell for a text; see the module."""
    return "'" + _UNSAFE.sub(_escape, text) if _NEEDS_ESCAPE.search(text) else text


def from_cell(cell: str) -> str:
    """The text of a cell; numbers are never escaped and stay unchanged."""
    return _ESCAPED.sub(_unescape, cell[1:]) if cell.startswith("'") else cell


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return r"\\"
    if 0x80 <= code - _BYTES <= 0xFF:
        return f"\\x{code - _BYTES:02x}"
    return f"\\u{code:04x}"


def _unescape(match: re.Match[str]) -> str:
    byte, character = match.groups()
    if byte is not None:
        return chr(_BYTES + int(byte, 16))
    return "\\" if character is None else chr(int(character, 16))
