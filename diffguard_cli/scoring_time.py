"""The time that a process spent scoring, as a line of `timing.jsonl`."""

from __future__ import annotations

import time
from pathlib import Path

import lightning.pytorch as pl
import torch

from diffguard.score_table.timing import Timing, append_timing


def record_time(
    folder: Path, trainer: pl.Trainer, images: int, seconds: float, waited: float, fill: float
) -> None:
    """Append this session's time, unless it scored no image.

    Args:
        folder: The evaluation folder.
        trainer: The trainer, whose processes all call this.
        images: Images that this process scored.
        seconds: Seconds that it took.
        waited: Seconds that this process waited for the others.
        fill: Share of the rows of network calls that held an image.
    """
    session = trainer.strategy.broadcast(time.strftime("%Y-%m-%dT%H:%M:%S"))
    if images:
        timing = Timing(
            session=session,
            rank=trainer.global_rank,
            images=images,
            seconds=seconds,
            waited=waited,
            fill=fill,
            device=str(trainer.strategy.root_device),
            threads=torch.get_num_threads(),
        )
        append_timing(folder, timing)
