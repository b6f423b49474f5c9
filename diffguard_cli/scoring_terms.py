"""The batch size and the number of threads of a scoring run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffguard.batching import AUTO, fixed_batch_size
from diffguard.score_table.manifest import MACHINE


@dataclass(frozen=True)
class Terms:
    """Settings that affect the last bits of a score; the user may leave them open.

    Attributes:
        batch_size: Rows of a network call; None if it is still to be measured.
        requested: The batch size of the command line, or `auto`.
        threads: CPU threads of a process; None leaves the libraries' choice.
    """

    batch_size: int | None
    requested: int | str
    threads: int | None

    def resumed(self, manifest: Mapping[str, Any]) -> Terms:
        """These terms, with open values taken from the manifest of the folder.

        Args:
            manifest: The manifest of the folder of scores; empty for a new folder.
        """
        threads = self.threads or manifest.get(MACHINE, {}).get("threads")
        size, before = manifest.get("batch_size"), manifest.get("batch_size_setting")
        if size is None or not self._allow(size, before):
            return Terms(self.batch_size, self.requested, threads)
        return Terms(size, manifest["batch_size_setting"], threads)

    def _allow(self, size: int, setting: int | str | None) -> bool:
        """Whether a run that began with a batch size, chosen by a setting, can resume."""
        return self.requested in (AUTO, setting) or fixed_batch_size(int(self.requested)) == size
