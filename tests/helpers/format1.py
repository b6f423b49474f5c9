"""Detectors of checkpoint format 1, written by the first release, and their recorded results.

`fixtures/format1_free.ckpt` and `fixtures/format1_classifier.ckpt` were made by `train.py` on the
project of `tiny_project.py`; the second also contains a random classifier of noisy images. The JSON
file beside each has its results on `fixed_images`, in batches of 8 on one thread. Percentiles,
p-values and verdicts were recorded again when they became conformal; scores were not.
"""

import json
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / "fixtures"

# Guidance with the second detector's classifier of noisy images, which its settings do not use.
NOISY = {"scale": 4.0, "model": "noisy", "blend": False}


def fixed_images():
    """Sixteen grayscale images of 8 pixels, the same on every machine: ID patterns and noise."""
    noise = torch.arange(16 * 64, dtype=torch.int64) * 48271 % 65521 % 61
    images = noise.view(16, 1, 8, 8)
    images[0:3, ..., :3] += 180
    images[3:6, ..., 5:] += 180
    images[6:9, ..., ::3, ::3] += 180
    images[12:] = images[12:] * 4
    return images / 255


def results(name):
    """The recorded results of a fixture, by settings."""
    return json.loads((FOLDER / f"{name}.json").read_text())
