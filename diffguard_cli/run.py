"""A training run: its settings and the paths of its files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from datamodules.ood import OODDataModule
from diffguard.printing import say
from diffguard.training.trainer_config import TrainerConfig


@dataclass
class Run:
    """A training run.

    Attributes:
        folder: Folder of the run.
        data: The DataModule.
        trainer: The `trainer` section.
        seed: Seed of every stage.
        config: The complete config as plain values.
        deadline: When training stops, on `time.monotonic`'s clock; None for no limit.
    """

    folder: Path
    data: OODDataModule
    trainer: TrainerConfig
    seed: int
    config: Mapping[str, Any]
    deadline: float | None = None

    @property
    def classifier_file(self) -> Path:
        """The trained classifier."""
        return self.folder / "classifier" / "classifier.safetensors"

    @property
    def noisy_classifier_file(self) -> Path:
        """The trained classifier of noisy images, which is optional."""
        return self.folder / "classifier" / "noisy_classifier.safetensors"

    @property
    def diffusion_folder(self) -> Path:
        """The trained diffusion model, a diffusers folder."""
        return self.folder / "diffusion"

    @property
    def lora_folder(self) -> Path:
        """The adapters of a diffusion model that was fine-tuned with LoRA."""
        return self.folder / "diffusion_lora"

    @property
    def edits_record(self) -> Path:
        """Names the edits of the training images that the classifier is trained with."""
        return self.folder / "augment.json"

    @property
    def edits_sheet(self) -> Path:
        """Picture of some of these edits and of mixtures with them."""
        return self.folder / "augment.png"

    @property
    def detector_file(self) -> Path:
        """The calibrated detector."""
        return self.folder / "detector.ckpt"

    @rank_zero_only
    def say(self, text: str) -> None:
        """Print a line on standard error, in the first process only."""
        say(text, file=sys.stderr)
