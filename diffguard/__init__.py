"""DiffGuard: out-of-distribution detection by diffusion reconstruction (arXiv 2308.07687).

from diffguard import DEMO_IMAGES, Detector

detector = Detector.load("demo")
verdicts = detector.predict(DEMO_IMAGES)
"""

from diffguard.classifiers.spec import ClassifierSpec
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
    "UserError",
    "Verdict",
    "Verdicts",
]
