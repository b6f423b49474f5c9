"""DiffGuard: out-of-distribution detection by diffusion reconstruction (arXiv 2308.07687).

from diffguard import DEMO_IMAGES, Detector

detector = Detector.load("demo")
verdicts = detector.predict(DEMO_IMAGES)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffguard.classifiers.spec import ClassifierSpec
    from diffguard.denoisers.spec import DiffusionSpec
    from diffguard.detector import Detector
    from diffguard.errors import UserError
    from diffguard.methods.verdicts import Verdict, Verdicts
    from diffguard.pretrained import DEMO_IMAGES
    from diffguard.settings.detector import DetectorSettings

__version__ = "0.1.0"

__all__ = [
    "DEMO_IMAGES",
    "ClassifierSpec",
    "Detector",
    "DetectorSettings",
    "DiffusionSpec",
    "UserError",
    "Verdict",
    "Verdicts",
]

_MODULES = {
    "DEMO_IMAGES": "diffguard.pretrained",
    "ClassifierSpec": "diffguard.classifiers.spec",
    "Detector": "diffguard.detector",
    "DetectorSettings": "diffguard.settings.detector",
    "DiffusionSpec": "diffguard.denoisers.spec",
    "UserError": "diffguard.errors",
    "Verdict": "diffguard.methods.verdicts",
    "Verdicts": "diffguard.methods.verdicts",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `--help` does not wait for the detector."""
    if name not in _MODULES:
        raise AttributeError(f"module 'diffguard' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
