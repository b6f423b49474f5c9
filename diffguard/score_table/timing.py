"""The time and the work that scoring took: a line of `timing.jsonl` per process and session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.files import append_line
from diffguard.storage.reading import read_text
from diffguard.storage.schema import parse_json

_NAME = "timing.jsonl"

CLASSIFIER = "classifier"
DIFFUSION = "diffusion"

_Count = Annotated[float, Field(ge=0, le=1e15)]
_Images = Annotated[int, Field(ge=0, lt=2**31)]
# The fields of `Work`. A line has braces only at its ends, which shows whether it is whole.
_WorkRow = Annotated[
    tuple[str, list[str], _Images, _Count, _Count, _Count, _Count],
    BeforeValidator(lambda row: tuple(row) if isinstance(row, list) else row),
]


@dataclass
class Work:
    """Work that some scores need.

    Attributes:
        part: `CLASSIFIER` for its pass over each image, `DIFFUSION`, a baseline, or a method that
            makes scores of what the diffusion model returns.
        needed_by: The scores.
        images: Images that the classifier saw; 0 for other parts.
        seconds: Wall seconds.
        classifier_passes: Forward passes of a classifier, an image each.
        gradients: Backward passes of a classifier, an image each.
        diffusion_passes: Network passes of the diffusion model, an image each.
    """

    part: str
    needed_by: list[str]
    images: int = 0
    seconds: float = 0.0
    classifier_passes: float = 0.0
    gradients: float = 0.0
    diffusion_passes: float = 0.0


class _Line(TypedDict):
    """The entries of a line that are read.

    Attributes:
        session: When the session began.
        images: Images that the process scored.
        seconds: Wall seconds that it scored.
        fill: Share of the rows of its network calls that held images, in [0, 1].
        work: What the scores took, the fields of `Work`; earlier versions did not record it.
    """

    session: str
    images: _Images
    seconds: Annotated[float, Field(ge=0, le=1e9)]
    fill: Annotated[float, Field(ge=0, le=1)]
    work: NotRequired[list[_WorkRow]]


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


def append_timing(folder: Path, timing: Timing, work: Sequence[Work] = ()) -> None:
    """Append a line to the `timing.jsonl` of a folder."""
    line = {**timing, "work": [astuple(part) for part in work]}
    append_line(folder / _NAME, json.dumps(line))


def read_timing(folder: Path) -> dict[str, float]:
    """Read the number of images, wall seconds and batch fill of all sessions of a folder.

    Raises:
        UserError: If a line is damaged in a way that a crash does not explain.
    """
    whole = _lines(folder)
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


def read_work(folder: Path) -> list[Work]:
    """Read the work of all processes and sessions of a folder.

    Raises:
        UserError: As `read_timing`.
    """
    return [Work(*row) for line in _lines(folder) for row in line.get("work", [])]


def _lines(folder: Path) -> list[_Line]:
    path = folder / _NAME
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        return []
    # A process that is killed in the middle of a line leaves a part of it, and the next line is
    # appended to that part.
    return [
        _parse(line, f"{path}, line {n},") for n, line in enumerate(lines, 1) if line[-1:] == "}"
    ]


def _parse(line: str, source: str) -> _Line:
    try:
        parsed: _Line = parse_json(line[max(line.rfind("{"), 0) :], _Line, source)
    except UserError as error:
        raise UserError(f"{error}; delete the file; results then lack the speed") from error
    return parsed
