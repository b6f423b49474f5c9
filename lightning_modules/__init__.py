"""What needs Lightning: modules, callbacks and trainers around `diffguard`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffguard.training.settings import ClassifierTraining, DiffusionTraining
    from lightning_modules.classifier import ClassifierModule
    from lightning_modules.detector import DetectorModule
    from lightning_modules.diffusion import DiffusionModule

__all__ = [
    "ClassifierModule",
    "ClassifierTraining",
    "DetectorModule",
    "DiffusionModule",
    "DiffusionTraining",
]

_MODULES = {
    "ClassifierModule": "lightning_modules.classifier",
    "ClassifierTraining": "diffguard.training.settings",
    "DetectorModule": "lightning_modules.detector",
    "DiffusionModule": "lightning_modules.diffusion",
    "DiffusionTraining": "diffguard.training.settings",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `--help` does not wait for Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lightning_modules' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
