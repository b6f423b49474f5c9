"""The batch size and the number of threads of a scoring run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffguard.methods.batch_size import frozen_batch_size
from diffguard.score_table.manifest import MACHINE


@dataclass(frozen=True)
class Terms:
    """What decides on the last bits of a score and may be left open by the user.

    Attributes:
        batch_size: Rows of a network call; None if it is still to be measured.
        requested: The batch size of the command line, or `auto`.
        threads: CPU threads of a process; None leaves the libraries' choice.
    """

    batch_size: int | None
    requested: int | str
    threads: int | None

    def resumed(self, manifest: Mapping[str, Any]) -> Terms:
        """These terms, with the open ones as the run in a folder began with them."""
        threads = self.threads or manifest.get(MACHINE, {}).get("threads")
        frozen = frozen_batch_size(manifest, self.requested)
        if frozen is None:
            return Terms(self.batch_size, self.requested, threads)
        return Terms(frozen, manifest["batch_size_setting"], threads)
