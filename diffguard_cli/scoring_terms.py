"""The batch size, the number of threads and the compilation of a scoring run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffguard.batching import AUTO, fixed_batch_size
from diffguard.engine.acceleration import CompileMode
from diffguard.score_table.manifest import MACHINE

# The values that `auto` may choose.
_MODES = (False, True)


@dataclass(frozen=True)
class Terms:
    """Settings that affect the last bits of a score; the user may leave them open.

    Attributes:
        batch_size: Rows of a network call; None if it is still to be measured.
        requested: The batch size of the command line, or `auto`.
        threads: CPU threads of a process; None leaves the libraries' choice.
        compile: How the diffusion network is compiled; None if it is still to be measured.
        is_auto: Whether `compile` is measured.
    """

    batch_size: int | None
    requested: int | str
    threads: int | None
    compile: CompileMode | None = False
    is_auto: bool = False

    @classmethod
    def of_settings(
        cls, batch_size: int | str, threads: int | None, compile: CompileMode | Literal["auto"]
    ) -> Terms:
        """The terms of a run, with None for what its settings leave open."""
        size = None if batch_size == AUTO else fixed_batch_size(int(batch_size))
        mode = None if compile == "auto" else compile
        return cls(size, batch_size, threads, mode, is_auto=mode is None)

    def resumed(self, manifest: Mapping[str, Any]) -> Terms:
        """These terms, with open values taken from the manifest of the folder.

        Args:
            manifest: The manifest of the folder of scores; empty for a new folder.
        """
        threads = self.threads or manifest.get(MACHINE, {}).get("threads")
        size, before = manifest.get("batch_size"), manifest.get("batch_size_setting")
        terms = replace(self, threads=threads)
        compile = manifest.get("settings", {}).get("compile")
        if self.is_auto and compile in _MODES:
            terms = replace(terms, compile=compile)
        if size is None or not self._allow(size, before):
            return terms
        return replace(terms, batch_size=size, requested=manifest["batch_size_setting"])

    def _allow(self, size: int, setting: int | str | None) -> bool:
        """Whether a run that began with a batch size, chosen by a setting, can resume."""
        return self.requested in (AUTO, setting) or fixed_batch_size(int(self.requested)) == size
