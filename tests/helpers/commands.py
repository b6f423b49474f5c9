"""The scripts as commands, and `evaluate.main` on a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import evaluate

ROOT = Path(__file__).parents[2]


def command(*words, **options):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def start(ckpt, *arguments):
    """Run evaluate.py on a checkpoint in this process and return its exit code."""
    return evaluate.main(["--ckpt", str(ckpt), *map(str, arguments)])
