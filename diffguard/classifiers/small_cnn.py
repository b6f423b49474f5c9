"""Small classifiers: one for clean images, one for noisy images (the paper's ablation)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Default number of channels of the first stage.
WIDTH = 16


class SmallCNN(nn.Module):
    """Five 3×3 convolutions in three stages, for images of about 28 pixels.

    Args:
        num_classes: Number K of classes.
        in_channels: 1 for gray, 3 for RGB.
        width: Channels of the first stage; the next have two and four times as many.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 1, width: int = WIDTH, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stage1 = _stage(in_channels, width)
        self.stage2 = _stage(width, 2 * width)
        self.stage3 = _stage(2 * width, 4 * width, convolutions=1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify `(N, C, H, W)` normalized images to logits `(N, K)`."""
        x = self.pool(self.stage1(x))
        x = self.pool(self.stage2(x))
        x = self.stage3(x)
        return self.fc(self.dropout(torch.mean(x, dim=(2, 3))))


class TimedCNN(nn.Module):
    """A classifier of noisy images, conditioned on the timestep (Dhariwal & Nichol, 2021, sec. 4).

    Args:
        num_classes: Number K of classes.
        in_channels: 1 for gray, 3 for RGB.
        width: Channels of the first stage; the next have two and four times as many.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, *, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        inputs = (in_channels, *widths[:-1])
        self.stages = nn.ModuleList(_stage(i, o) for i, o in zip(inputs, widths, strict=True))
        self.times = nn.ModuleList(nn.Linear(2 * _FREQUENCIES, 2 * o) for o in widths)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Classify noisy images.

        Args:
            x: `(N, C, H, W)`, nominally in [0, 1] at timestep 0, at least 4 pixels a side.
            t: `(N,)` int64 timesteps, 0-based.

        Returns:
            Logits `(N, K)`.
        """
        embedding = _embed(t).to(x)
        for number, (stage, time) in enumerate(zip(self.stages, self.times, strict=True)):
            scale, shift = time(embedding)[:, :, None, None].chunk(2, dim=1)
            x = stage(x) * (1 + scale) + shift
            if number < len(self.stages) - 1:
                x = torch.max_pool2d(x, 2)
        return self.fc(x.mean(dim=(2, 3)))


_FREQUENCIES = 16


def _embed(t: Tensor) -> Tensor:
    """Sines and cosines of timesteps `(N,)` at frequencies from 1 down to 1/10,000."""
    exponents = torch.arange(_FREQUENCIES, device=t.device) / _FREQUENCIES
    angles = t[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _stage(inputs: int, outputs: int, convolutions: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [
            nn.Conv2d(outputs if number else inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
