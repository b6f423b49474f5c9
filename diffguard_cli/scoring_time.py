"""The time that a process spent scoring, as a line of `timing.jsonl`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch

from diffguard.score_table.timing import Timing, append_timing

if TYPE_CHECKING:
    from lightning_modules.stream import StreamModule


def record_time(folder: Path, trainer: pl.Trainer, module: StreamModule, waited: float) -> None:
    """Append this session's time, unless it scored no image.

    Args:
        folder: The evaluation folder.
        trainer: The trainer, whose processes all call this.
        module: The module that scored.
        waited: Seconds that this process waited for the others.
    """
    session = trainer.strategy.broadcast(time.strftime("%Y-%m-%dT%H:%M:%S"))
    if module.stream.row_count:
        timing = Timing(
            session=session,
            rank=trainer.global_rank,
            images=module.stream.row_count,
            seconds=module.seconds,
            waited=waited,
            fill=module.stream.fill,
            device=str(trainer.strategy.root_device),
            threads=torch.get_num_threads(),
        )
        append_timing(folder, timing)
