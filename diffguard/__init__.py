"""DiffGuard: out-of-distribution detection by diffusion reconstruction (arXiv 2308.07687).

from diffguard import Detector

detector = Detector.load("runs/…/detector.ckpt")
verdicts = detector.predict(images)
"""

from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.verdicts import Verdict, Verdicts
from diffguard.pretrained import DEMO_IMAGES

__version__ = "0.1.0"

__all__ = ["DEMO_IMAGES", "Detector", "UserError", "Verdict", "Verdicts"]
