"""Small classifiers of our own, for data that torchvision's and timm's are too large for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three stages of 3×3 convolutions, for images of about 28 pixels.

    Args:
        num_classes: Number K of classes.
        in_channels: 1 for grey, 3 for RGB.
        width: Channels of the first stage; the next have two and four times as many.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 1, width: int = 32, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.stage1 = _stage(in_channels, width)
        self.stage2 = _stage(width, 2 * width)
        self.stage3 = _stage(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify `(N, C, H, W)` normalised images to logits `(N, K)`."""
        x = self.pool(self.stage1(x))
        x = self.pool(self.stage2(x))
        x = self.stage3(x)
        return self.fc(self.dropout(torch.mean(x, dim=(2, 3))))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
