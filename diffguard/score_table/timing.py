"""The time that scoring took: a line of `timing.jsonl` per process and session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.files import append_line
from diffguard.storage.reading import read_text
from diffguard.storage.schema import parse_json

_NAME = "timing.jsonl"


class _Line(TypedDict):
    """The entries of a line that are read.

    Attributes:
        session: When the session began.
        images: Images that the process scored.
        seconds: Wall seconds that it scored.
        fill: Share of the rows of its network calls that held images, in [0, 1].
    """

    session: str
    images: Annotated[int, Field(ge=0, lt=2**31)]
    seconds: Annotated[float, Field(ge=0, le=1e9)]
    fill: Annotated[float, Field(ge=0, le=1)]


class Timing(_Line):
    """What one process reports of one session.

    Attributes:
        rank: Number of the process.
        waited: Wall seconds that it waited for the others at the end.
        device: Its device.
        threads: Its CPU threads.
    """

    rank: int
    waited: float
    device: str
    threads: int


def append_timing(folder: Path, timing: Timing) -> None:
    """Append a line to the `timing.jsonl` of a folder."""
    append_line(folder / _NAME, json.dumps(timing))


def read_timing(folder: Path) -> dict[str, float]:
    """Read the number of images, wall seconds and batch fill of all sessions of a folder.

    Raises:
        UserError: If a line is damaged in a way that a crash does not explain.
    """
    path = folder / _NAME
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        lines = []
    # A process that is killed in the middle of a line leaves a part of it, and the next line is
    # appended to that part.
    whole = [
        _parse(line, f"{path}, line {n},") for n, line in enumerate(lines, 1) if line[-1:] == "}"
    ]
    images = sum(line["images"] for line in whole)
    seconds: dict[str, float] = {}
    for line in whole:
        seconds[line["session"]] = max(seconds.get(line["session"], 0.0), line["seconds"])
    filled = sum(line["fill"] * line["images"] for line in whole)
    return {
        "images": images,
        "seconds": sum(seconds.values()),
        "fill": filled / images if images else 1.0,
    }


def _parse(line: str, source: str) -> _Line:
    try:
        parsed: _Line = parse_json(line[max(line.rfind("{"), 0) :], _Line, source)
    except UserError as error:
        raise UserError(f"{error}; delete the file; results then lack the speed") from error
    return parsed
