"""What is measured before scoring: the fastest batch size."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch

from diffguard.methods.batch_size import find_batch_size
from diffguard.methods.registry import build_methods
from diffguard.methods.scorer import Scorer
from diffguard.printing import say


def fastest_batch_size(scorer: Scorer, trainer: pl.Trainer, images: int) -> int:
    """The fastest batch size that fits.

    Args:
        scorer: The scorer.
        trainer: Brings the device and the precision.
        images: Number of images to score.
    """
    scorer = scorer.to(trainer.strategy.root_device)
    methods = build_methods(scorer.models, scorer.fits)
    assert scorer.baselines is not None
    with torch.inference_mode(), trainer.precision_plugin.test_step_context():
        size = find_batch_size(scorer.models, methods, scorer.baselines, images)
    say(f"batch size: {size}", file=sys.stderr)
    return size
