"""Edits on disk: blocks while they are made, and one file when all are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffguard.augment.checking import Edits, Fault
from diffguard.errors import UserError
from diffguard.storage.files import replace_file
from diffguard.storage.json_files import read_json

# Images of a block: what a killed process loses at most.
BLOCK = 256
_EDITS, _SUMMARY = "edits.npy", "edits.json"


def cache_folder(root: Path, identity: Mapping[str, Any]) -> Path:
    """The folder of the edits of certain images by certain models with certain settings.

    Args:
        root: The folder of all caches.
        identity: Plain values on which the edits depend.
    """
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return root / key[:16]


class EditCache:
    """The edits of a training set.

    Args:
        folder: Its folder; created when the first block is written.
        count: Number of images.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    @property
    def is_complete(self) -> bool:
        """Whether all edits are there."""
        return (self.folder / _SUMMARY).is_file()

    @property
    def blocks(self) -> list[range]:
        """The positions of the images of each block."""
        starts = range(0, self.count, BLOCK)
        return [range(start, min(start + BLOCK, self.count)) for start in starts]

    def pending(self) -> list[int]:
        """Numbers of the blocks that are missing."""
        if self.is_complete:
            return []
        return [number for number in range(len(self.blocks)) if not self._block(number).is_file()]

    def write(self, number: int, edits: Edits) -> None:
        """Write a block; the edits are rounded to 8 bits.

        Raises:
            UserError: If the system refuses to write.
        """
        content = {
            "edits": as_bytes(edits.images).cpu().contiguous(),
            "is_edit": edits.is_edit,
            "rejections": edits.rejections,
        }
        with replace_file(self._block(number)) as temporary:
            save_file(content, temporary)

    def finish(self) -> None:
        """Join the blocks; they are removed. Another run may have done so in the meantime.

        Raises:
            UserError: If a block is damaged, or the system refuses to write.
        """
        try:
            self._join()
        except UserError:
            if not self.is_complete:
                raise
        for number in range(len(self.blocks)):
            self._block(number).unlink(missing_ok=True)

    def _join(self) -> None:
        """Write all edits and their summary."""
        shape = self._read(0)["edits"].shape[1:]
        rejections, edit_count = torch.zeros(len(Fault), dtype=torch.int64), 0
        with replace_file(self.folder / _EDITS) as temporary:
            edits = np.lib.format.open_memmap(
                temporary, "w+", dtype=np.uint8, shape=(self.count, *shape)
            )
            for number, positions in enumerate(self.blocks):
                block = self._read(number)
                edits[positions.start : positions.stop] = block["edits"].numpy()
                rejections += block["rejections"]
                edit_count += int(block["is_edit"].sum())
            edits.flush()
        counts = {fault.name.lower(): int(rejections[fault]) for fault in Fault if fault}
        summary = {"images": self.count, "edited": edit_count, "rejected": counts}
        with replace_file(self.folder / _SUMMARY) as temporary:
            temporary.write_text(json.dumps(summary, indent=2), encoding="utf-8")

    def read(self) -> Tensor:
        """The edits, uint8 `(N, C, H, W)`; read from the disk as they are used.

        Raises:
            UserError: If they are missing or do not belong to this number of images.
        """
        path = self.folder / _EDITS
        try:
            edits = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read: delete {self.folder} and make the edits again"
            ) from error
        if edits.dtype != np.uint8 or edits.ndim != 4 or len(edits) != self.count:
            raise UserError(
                f"{path} does not hold {self.count:,} edits: delete {self.folder} and make them "
                "again"
            )
        return torch.from_numpy(edits)

    def summary(self) -> dict[str, Any]:
        """How many images there are, how many were edited, and the rejected edits by fault.

        Raises:
            UserError: If the file is damaged.
        """
        return dict(read_json(self.folder / _SUMMARY, dict[str, Any]))

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.safetensors"

    def _read(self, number: int) -> dict[str, Tensor]:
        path = self._block(number)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read: delete it and start again") from error


def as_bytes(images: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8."""
    return (images * 255.0).round().to(torch.uint8)
