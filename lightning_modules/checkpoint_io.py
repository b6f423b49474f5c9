"""Checkpoints of a training stage: one file, replaced in whole after an epoch and on a stop."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffguard.errors import UserError
from diffguard.storage.archives import check_archive, check_tensors
from diffguard.storage.files import replace_file
from diffguard.storage.paths import require_file
from lightning_modules.resumed_state import check_version

_NAME = "last"


class EpochCheckpoint(Checkpoint):
    """Keeps the state after the newest epoch in `folder/last.ckpt`.

    It has no state of its own. Lightning's `ModelCheckpoint` restores from a checkpoint the paths
    of files that it may delete.

    Args:
        folder: Folder of the stage's checkpoint.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = checkpoint_file(folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save; Lightning calls this after the module's own hook, which checks the epoch."""
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)


def checkpoint_file(folder: Path | str) -> Path:
    """Where a stage's state lies."""
    return Path(folder) / f"{_NAME}.ckpt"


def last_checkpoint(folder: Path | str) -> Path | None:
    """The checkpoint that training left in a folder, or None."""
    path = checkpoint_file(folder)
    return path if path.is_file() else None


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint in one step and reads it as data; a plugin of Lightning's Trainer.

    Lightning itself writes to the system's temporary folder and moves the file from there, which is
    a copy, that a crash can cut short, where that folder is on another disk.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Path | str,
        storage_options: Any = None,  # noqa: ARG002
    ) -> None:
        """Write a checkpoint; at any moment the old file or the new one is there.

        Raises:
            UserError: If the system refuses to write; the old file is then as before.
        """
        with replace_file(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: Path | str,
        map_location: Any = "cpu",
        weights_only: bool | None = True,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint as tensors and plain values, without regard to `weights_only`.

        Raises:
            UserError: If it is missing, damaged, would take more memory than its file, or holds
                anything but tensors and plain values.
        """
        require_file(path, "checkpoint")
        check_archive(Path(path))
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"checkpoint {path} is refused: it is damaged, or holds more than tensors and "
                "plain values; name one that training wrote"
            ) from error
        except Exception as error:
            # Damaged archives surface as many types.
            raise UserError(
                f"checkpoint {path} cannot be read, it is damaged or no checkpoint: delete it and "
                "train that stage again"
            ) from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise UserError(
                f"{path} is no checkpoint of a training stage: name a last.ckpt that training wrote"
            )
        check_tensors(checkpoint, Path(path))
        check_version(checkpoint["pytorch-lightning_version"], str(path))
        # No callback of a stage has a state. What is there is of another program, and may name
        # files to delete.
        checkpoint["callbacks"] = {}
        return checkpoint
