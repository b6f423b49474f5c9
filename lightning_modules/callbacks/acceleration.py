"""Channels-last weights and compiled networks, during training only."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from diffguard.training.settings import TrainingSettings


class Acceleration(pl.Callback):
    """Trains with weights in channels-last format and with compiled networks, if that is set.

    Args:
        settings: The settings of training.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.channels_last, self.compiled = settings.channels_last, settings.compiled

    def on_fit_start(self, _trainer: pl.Trainer, pl_module: Any) -> None:
        """Convert the weights and compile the networks."""
        if self.channels_last:
            pl_module.to(memory_format=torch.channels_last)
        if self.compiled:
            torch.compiler.set_stance("default")
            pl_module.compile_networks()

    def on_fit_end(self, _trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Convert the weights back; safetensors writes no other memory format."""
        pl_module.to(memory_format=torch.contiguous_format)

    def on_validation_start(self, *_: Any) -> None:
        """Run the networks without compilation: other batch sizes would compile them again."""
        if self.compiled:
            torch.compiler.set_stance("force_eager")

    def on_validation_end(self, *_: Any) -> None:
        """Return to compiled networks."""
        if self.compiled:
            torch.compiler.set_stance("default")
