"""The time that a process spent scoring, as a line of `timing.jsonl`."""

from __future__ import annotations

import time
from pathlib import Path

import lightning.pytorch as pl
import torch

from diffguard.methods.adaptive_stream import AdaptiveStream
from diffguard.score_table.timing import Timing, append_timing


def record_time(
    folder: Path, trainer: pl.Trainer, stream: AdaptiveStream, seconds: float, waited: float
) -> None:
    """Append this session's time, unless it scored no image.

    Args:
        folder: The evaluation folder.
        trainer: The trainer, whose processes all call this.
        stream: The stream that scored this process's images.
        seconds: Seconds that it took.
        waited: Seconds that this process waited for the others.
    """
    session = trainer.strategy.broadcast(time.strftime("%Y-%m-%dT%H:%M:%S"))
    if stream.row_count:
        timing = Timing(
            session=session,
            rank=trainer.global_rank,
            images=stream.row_count,
            seconds=seconds,
            waited=waited,
            fill=stream.fill,
            device=str(trainer.strategy.root_device),
            threads=torch.get_num_threads(),
        )
        append_timing(folder, timing, stream.work)
