"""A training config, checked in every section before the first stage begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.errors import UserError
from diffguard_cli.config import DiffusionConfig, StageConfig
from lightning_modules.trainer import TrainerConfig
from lightning_modules.training_values import check_values


def check_training(
    stages: Sequence[str], sections: Mapping[str, StageConfig], trainer: TrainerConfig
) -> None:
    """Check all that a run trains, before it trains anything.

    Args:
        stages: The stages of the run.
        sections: Stage -> its section, for each stage that trains.
        trainer: The `trainer` section.

    Raises:
        UserError: For the first mistake.
    """
    clip = trainer.gradient_clip_val
    if clip is not None and not 0 <= clip < math.inf:
        raise UserError(
            f"trainer.gradient_clip_val must be at least 0 (0 or null does not clip), got {clip:g}"
        )
    for stage, config in sections.items():
        check_values(stage, asdict(config))
    diffusion = sections["diffusion"]
    if (
        isinstance(diffusion, DiffusionConfig)
        and "diffusion" in stages
        and diffusion.ckpt is None
        and diffusion.finetune is None
    ):
        schedule_from_config(diffusion.scheduler)
