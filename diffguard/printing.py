"""Safe output on the terminal: text from files may contain control sequences.

The project prints every line by `say`; text that other libraries print goes through `printable`.
"""

from __future__ import annotations

import sys
from typing import TextIO


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Escape characters that a terminal would not show literally.

    Args:
        text: One line; a line break in it is escaped too.
        encoding: Encoding of the output; characters that it lacks are escaped.

    Returns:
        The text with control and formatting characters as escapes (`\x1b`), and bytes of a file
        name that are not UTF-8 as `\xe9`.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(c) for c in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines and flush; control characters and characters beyond the encoding are escaped.

    Args:
        *lines: The lines.
        file: The stream; defaults to the standard output.
    """
    stream = file or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        print(printable(line, encoding), file=stream)
    stream.flush()


def accept_all_text() -> None:
    """Let the standard streams escape characters that they cannot encode, for all libraries."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
