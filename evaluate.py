"""Score ID and OOD sets, or a folder of images, with a detector checkpoint.

`python evaluate.py --ckpt runs/…/detector.ckpt` needs nothing but the checkpoint;
`python evaluate.py --scores runs/…/evaluation` nothing but the score tables.
"""

from __future__ import annotations

import sys

from diffguard_cli.interrupts import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the next import takes seconds

from diffguard_cli.evaluation import build_parser, main
from diffguard_cli.exit_codes import run

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    run(main, sys.argv[1:])
