"""The name of the running program, for usage lines and hints."""

from __future__ import annotations

import sys
from pathlib import Path


def command_line(command: str) -> str:
    """The start of a command line: `diffguard train`, or `python train.py` in the clone."""
    program = Path(sys.argv[0])
    if program.stem == "diffguard" or program == Path(__file__).with_name("__main__.py"):
        return f"diffguard {command}"
    return f"python {command}.py"
