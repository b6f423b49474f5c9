"""Detectors that ship with the package, found by name; each has example images."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
_NAMES = ("demo",)
# A digit, which is ID for the demo detector, and a letter, which is OOD.
DEMO_IMAGES = (_FOLDER / "demo/images/digit.png", _FOLDER / "demo/images/letter.png")


def is_shipped(path: str | Path) -> bool:
    """Whether a path is the name of a shipped detector; an existing file or folder wins."""
    return str(path) in _NAMES and not Path(path).exists()


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint at a path, or that of a shipped detector.

    Args:
        path: A path, or the name of a shipped detector: `demo`.
    """
    return _FOLDER / str(path) / "detector.ckpt" if is_shipped(path) else Path(path)


def image_folder(path: str | Path) -> Path:
    """The folder at a path, or the example images of a shipped detector."""
    return _FOLDER / str(path) / "images" if is_shipped(path) else Path(path)
