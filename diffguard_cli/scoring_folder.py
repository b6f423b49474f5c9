"""An evaluation folder: which run its scores belong to, and what is left to score in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.batching import fixed_batch_size
from diffguard.engine.memory import too_large
from diffguard.errors import UserError
from diffguard.methods.batch_size import AUTO, begun_with
from diffguard.score_table.contents import changed_images, keep_contents
from diffguard.score_table.manifest import (
    FORMAT,
    MACHINE,
    check_manifest,
    open_manifest,
    read_manifest,
    write_manifest,
)
from diffguard.score_table.writer import read_done
from diffguard.settings.detector import DECIDING, DetectorSettings, to_dict
from diffguard.storage.environment import describe_machine
from diffguard.storage.files import refuse_links


class ScoringFolder:
    """What the scores in a folder depend on, compared with what a run is about to add.

    Batch size and CPU threads decide on the last bits of a score. Where they are left open, a run
    that goes on takes those that it began with.

    Args:
        path: The folder.
        data: The DataModule.
        stream: The images.
        settings: The detector's settings as they were asked for.
        seed: The detector's seed.
        identity: What the scores depend on beside settings and data.
        threads: CPU threads of a process; None leaves them open.

    Attributes:
        batch_size: Rows of a network call; 0 where it is still to be found.
    """

    def __init__(
        self,
        path: Path,
        data: Any,
        stream: Any,
        settings: DetectorSettings,
        seed: int,
        identity: Mapping[str, Any],
        threads: int | None,
    ) -> None:
        self.path = path
        self.identity = dict(identity)
        self.threads = threads
        self.batch_size = 0 if data.batch_size == AUTO else fixed_batch_size(data.batch_size)
        self._asked: int | str = data.batch_size
        self._data, self._stream, self._settings, self._seed = data, stream, settings, seed
        self._names: list[str] = []

    def check(self, device: torch.device) -> NDArray[np.bool_]:
        """Compare the folder with this run; nothing is written.

        Args:
            device: Where the networks run.

        Returns:
            `(N,)`, which images of the stream have their scores.

        Raises:
            UserError: If the folder belongs to another run, naming what differs, or an image has
                changed since it was scored.
        """
        refuse_links(self.path / "scores", self.path / "calibration")
        stored = read_manifest(self.path)
        self._take_over(stored or {})
        check_manifest(self.path, self._manifest(device), finished=True)
        scored: NDArray[np.bool_] = self._stream.among(read_done(self.path))
        check_manifest(self.path, self._manifest(device), finished=bool(scored.all()))
        changed = changed_images(self.path, self._stream.contents, scored)
        if len(changed):
            which, position = self._stream.select[changed[0]].tolist()
            images = self._stream.sets[which]
            item = images.describe(position)
            raise UserError(
                f"{item['path'] or 'image ' + str(item['index'])} of the set {images.name} has "
                f"changed since it was scored ({len(changed)} images in all): restore it to "
                f"continue the run in {self.path}, or name another folder with --output"
            )
        return scored

    def is_free(self, device: torch.device) -> bool:
        """Whether the folder holds no scores yet, or those of this very run."""
        _ = (
            self._sets,
            self._stream.contents,
        )  # what is wrong with the images is not the folder's fault
        if not os.path.lexists(self.path):
            return True
        try:
            self.check(device)
        except UserError:
            return False
        return True

    def open(
        self, device: torch.device, names: list[str], find_batch_size: Callable[[], int]
    ) -> NDArray[np.int64]:
        """Make the folder this run's; the first process calls this before there is a row.

        Args:
            device: Where the networks run.
            names: The columns of scores.
            find_batch_size: Finds a batch size, where none was asked for.

        Returns:
            What is left to score, as the stream selects it.

        Raises:
            UserError: As `check`, or if the folder cannot be written.
        """
        scored = self.check(device)
        self._names = names
        self.batch_size = self.batch_size or find_batch_size()
        self.threads = self.threads or torch.get_num_threads()
        # Another launch of the same command may have been faster: its batch size counts then.
        self._take_over(read_manifest(self.path) or {})
        keep_contents(self.path, self._stream.contents)
        open_manifest(self.path, self._manifest(device), finished=bool(scored.all()))
        left: NDArray[np.int64] = self._stream.select[~scored]
        return left

    def take_smaller(self, device: torch.device, batch_size: int) -> None:
        """Freeze a smaller batch size, as long as there is no row, of an earlier run neither."""
        if read_done(self.path):
            raise UserError(too_large(self.batch_size))
        self.batch_size = batch_size
        write_manifest(self.path, self._manifest(device))

    def machine(self, device: torch.device) -> dict[str, str | int]:
        """What this process adds to the last bits of a score."""
        return describe_machine(device, self.threads or torch.get_num_threads())

    def _manifest(self, device: torch.device) -> dict[str, Any]:
        settings = to_dict(self._settings)
        return {
            "format": FORMAT,
            **self.identity,
            "settings": {key: settings[key] for key in settings if key not in DECIDING},
            "seed": self._seed,
            "batch_size": self.batch_size,
            "batch_size_asked": self._asked,
            **({"scores": self._names} if self._names else {}),
            "image_size": self._data.image_size,
            "channels": self._data.channels,
            "sets": self._sets,
            MACHINE: self.machine(device),
        }

    @cached_property
    def _sets(self) -> dict[str, Any]:
        return {
            one.name: {"n": len(one), "fingerprint": one.fingerprint()} for one in self._stream.sets
        }

    def _take_over(self, stored: Mapping[str, Any]) -> None:
        frozen = begun_with(stored, self._asked)
        if frozen is not None:
            self.batch_size, self._asked = frozen, stored["batch_size_asked"]
        if self.threads is None:
            self.threads = stored.get(MACHINE, {}).get("threads")
