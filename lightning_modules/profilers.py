"""Profilers of training, by name or by class path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from diffguard.training.class_paths import ClassEntry, build
from diffguard.training.trainer_config import ProfilerName

_CLASSES = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def build_profiler(profiler: ProfilerName | ClassEntry | None, folder: Path) -> Profiler | None:
    """The profiler of one stage of a run.

    Args:
        profiler: A name, an entry with a class path, or None.
        folder: The folder to which a profiler with a name writes its report.

    Raises:
        UserError: If a class cannot be built.
    """
    if isinstance(profiler, Mapping):
        return build(profiler, Profiler, "trainer.profiler")  # type: ignore[type-abstract]
    if profiler is None:
        return None
    return _CLASSES[profiler](dirpath=folder, filename="report")
