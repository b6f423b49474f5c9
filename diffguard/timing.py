"""What scoring cost: a line of `timing.jsonl` per process and session."""

from __future__ import annotations

import json
from pathlib import Path


def read_timing(folder: Path) -> dict[str, float]:
    """Images, wall seconds and fill of all sessions that scored into a folder."""
    path = folder / "timing.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # A process that was killed in the middle of a line leaves half of one, and the next line
    # goes on behind it.
    whole = [json.loads(line[line.rindex("{") :]) for line in lines if line.endswith("}")]
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
