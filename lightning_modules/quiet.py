"""Silences library messages that are of no use to a reader."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence advice of libraries that a user of this program cannot follow."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A profiler without a folder reports here.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # `build_trainer` refuses this precision.
    warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU.*")
    warnings.filterwarnings("ignore", message=".*functools.lru_cache.*", module="torch._dynamo.*")
