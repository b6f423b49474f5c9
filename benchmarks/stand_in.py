"""Tiny models, to measure everything except the models."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.detector import Detector
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.sections import InversionSettings, SamplerSettings

CLASSES = 3
_NOT_FUSED = {"fused": [], "decision": "diffguard"}


class Clock(nn.Module):
    """A network that takes a fixed time and marks the depth of a state.

    The first channel of its noise is 1 everywhere, so the first channel of a state shows its depth.

    Args:
        side: Side of the images in pixels.
        channels: Channels of the images.
        seconds: Duration of a call, which sleeps; the CPU is free meanwhile, as with a GPU.
    """

    def __init__(self, side: int, channels: int, seconds: float) -> None:
        super().__init__()
        self.config = {"sample_size": side, "in_channels": channels}
        self.seconds = seconds
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Any:  # noqa: ARG002
        """Return the noise of states `(N, C, H, W)`."""
        time.sleep(self.seconds)
        noise = x * 0.1 * self.scale
        noise[:, 0] = 1.0
        return SimpleNamespace(sample=noise)


def settings(steps: int, **changes: Any) -> DetectorSettings:
    """Settings of a fast detector."""
    return DetectorSettings(
        sampler=SamplerSettings(steps=steps),
        inversion=InversionSettings(depth=1.0),
        **{"distances": ["l2"], "distance": ["l2"], **_NOT_FUSED, **changes},
    )


def build(config: DetectorSettings, side: int, channels: int = 1, seconds: float = 0.0) -> Detector:
    """A detector with stand-in models, not calibrated."""
    torch.manual_seed(0)
    classifier = Classifier(
        SmallCNN(CLASSES, in_channels=channels, width=4), CLASSES, channels=channels
    )
    denoiser = PixelDenoiser(
        Clock(side, channels, seconds),
        NoiseSchedule.linear(),
        side,
        channels,
        num_classes=CLASSES,
        null_class=CLASSES,
    )
    return Detector(
        classifier.eval(), denoiser.eval(), config, image_size=side, image_channels=channels
    )
