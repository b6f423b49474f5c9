"""Fit the classifier, fit or fine-tune the diffusion model, calibrate the detector.

`python train.py` alone runs the embedded default, `configs/digits.yaml`.
"""

from __future__ import annotations

import sys

from diffguard_cli.interrupts import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the next import takes seconds

from diffguard_cli.exit_codes import run
from diffguard_cli.training import DEFAULT_CONFIG, build_parser, main

__all__ = ["DEFAULT_CONFIG", "build_parser", "main"]

if __name__ == "__main__":
    run(main, sys.argv[1:])
