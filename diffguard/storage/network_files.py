"""Compares the size of a network with the files of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from diffguard.errors import UserError, reason_of
from diffguard.storage.archives import check_archive
from diffguard.storage.sizes import trial


def check_files(build: Callable[[], nn.Module], files: Sequence[Path], name: str) -> None:
    """Check that a network is not larger than the files of its weights.

    Args:
        build: Builds the network.
        files: The files of its weights. Without any, only the network's own size is checked.
        name: Name of its folder, for the error line.

    Raises:
        UserError: For a larger network, one that cannot be built, and compressed archives.
    """
    for path in files:
        if path.suffix == ".bin":
            check_archive(path)
    try:
        network = trial(build, f"the network of {name}")
    except UserError:
        raise
    except Exception as error:
        # Constructors of libraries may raise any exception.
        raise UserError(f"{name} cannot be loaded ({reason_of(error)}): is it complete?") from error
    weights = sum(value.numel() for value in network.state_dict().values())
    if files and weights > sum(path.stat().st_size for path in files):
        raise UserError(
            f"{name} cannot be loaded (its config.json describes {weights:,} weights, more than "
            "its files hold): is it complete?"
        )
