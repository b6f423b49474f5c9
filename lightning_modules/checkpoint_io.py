"""Checkpoints of a training stage: one file, replaced as a whole after each epoch."""

from __future__ import annotations

import os
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
from diffguard.training.checkpoint_content import check_version

_NAME = "last"


class EpochCheckpoint(Checkpoint):
    """Saves the state after the latest epoch to `folder/last.ckpt`.

    This callback has no state. Lightning's `ModelCheckpoint` restores paths of files from a
    checkpoint, and may delete those files.

    Args:
        folder: Folder of the stage's checkpoint.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = checkpoint_file(folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save the state; Lightning calls checkpoint callbacks last, after the other checks."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)


def checkpoint_file(folder: Path | str) -> Path:
    """The file of a stage's state."""
    return Path(folder) / f"{_NAME}.ckpt"


def last_checkpoint(folder: Path | str) -> Path | None:
    """The checkpoint that training left in a folder, or None.

    Raises:
        UserError: If something else is in its place.
    """
    path = checkpoint_file(folder)
    return require_file(path, "checkpoint") if os.path.lexists(path) else None


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint in one step and reads it as data; a plugin of Lightning's Trainer.

    Lightning itself writes to the system's temporary folder and moves the file. If that folder is
    on another disk, moving means copying, and a crash can leave half a file.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Path | str,
        storage_options: Any = None,  # noqa: ARG002
    ) -> None:
        """Write a checkpoint; a reader always sees the old file or the new one.

        Raises:
            UserError: If the file cannot be written; the old file is then left as it was.
        """
        with replace_file(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: Path | str,
        map_location: Any = "cpu",
        weights_only: bool | None = True,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint as tensors and plain values, even if `weights_only` is false.

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
                "plain values; give one that training wrote"
            ) from error
        except Exception as error:
            # Damaged archives raise exceptions of many types.
            raise UserError(
                f"checkpoint {path} cannot be read: it is damaged or not a checkpoint; delete it "
                "and train that stage again"
            ) from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise UserError(
                f"{path} is not a checkpoint of a training stage: give a last.ckpt that training "
                "wrote"
            )
        check_tensors(checkpoint, Path(path))
        check_version(checkpoint["pytorch-lightning_version"], str(path))
        # No callback of a stage has a state. A state in the file comes from another program, and
        # may name files to delete.
        checkpoint["callbacks"] = {}
        return checkpoint
