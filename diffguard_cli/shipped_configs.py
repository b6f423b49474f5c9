"""The shipped configs, found by name from any folder."""

from __future__ import annotations

from pathlib import Path

from diffguard.errors import UserError
from diffguard.storage.paths import kind_of, user_path

# A wheel puts the configs beside this file; in a clone they are at the top level.
_FOLDERS = (Path(__file__).with_name("configs"), Path(__file__).parents[1] / "configs")


def shipped_configs() -> dict[str, Path]:
    """The shipped configs.

    Returns:
        Name -> file, in alphabetical order.
    """
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_file(name: str) -> Path:
    """The file of a config. An existing file wins over a shipped config of the same name.

    Args:
        name: A path, or the name of a shipped config, such as `cifar10`.

    Raises:
        UserError: If it is neither; the line lists the names.
    """
    path = user_path(name, "--config")
    kind = kind_of(path)
    shipped = shipped_configs()
    if kind in ("nothing", "a folder") and name in shipped:
        return shipped[name]
    if kind == "nothing":
        raise UserError(
            f"config {name} does not exist: expected a YAML file, or one of the shipped configs "
            f"{', '.join(shipped)}"
        )
    return path
