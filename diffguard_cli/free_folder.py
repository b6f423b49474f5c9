"""The folder of a run that may not replace other scores."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

import lightning.pytorch as pl

from diffguard_cli.scoring import ScoringRun


def free_run(folder: Path, trainer: pl.Trainer, make: Callable[[Path], ScoringRun]) -> ScoringRun:
    """The run in a folder, or beside it (`-2`, `-3`, …) if the folder holds other scores."""
    numbers = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    runs = (make(place) for place in chain([folder], numbers))
    return next(run for run in runs if run.is_free(trainer))
