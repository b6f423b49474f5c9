"""DiffGuard: out-of-distribution detection by diffusion reconstruction (arXiv 2308.07687).

from diffguard import Detector

detector = Detector.load("runs/…/detector.ckpt")
verdicts = detector.predict(images)
"""

from diffguard.detector import Detector, Verdicts
from diffguard.errors import UserError

__all__ = ["Detector", "UserError", "Verdicts"]
