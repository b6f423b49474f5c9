"""OpenOOD's classifiers: its ResNet-18 for images of 32 pixels, and torchvision's ResNet-50."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.errors import UserError


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet18_32x32(nn.Module):  # noqa: N801
    """ResNet-18 with a 3×3 stem and no pooling in front, as OpenOOD trains it on CIFAR.

    Modules have OpenOOD's names, so that its checkpoints load strictly.

    Args:
        num_classes: Number K of classes.
        widths: Channels of the stem and of the four layers.
        blocks: Residual blocks per layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _layer(widths[0], widths[1], blocks[0], stride=1)
        self.layer2 = _layer(widths[1], widths[2], blocks[1], stride=2)
        self.layer3 = _layer(widths[2], widths[3], blocks[2], stride=2)
        self.layer4 = _layer(widths[3], widths[4], blocks[3], stride=2)
        self.fc = nn.Linear(widths[4], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify `(N, 3, H, W)` normalized images to logits `(N, K)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def openood_network(name: str, **kwargs: Any) -> nn.Module:
    """A classifier by OpenOOD's name, with random weights.

    Raises:
        UserError: For another name.
    """
    if name == "ResNet18_32x32":
        return ResNet18_32x32(**kwargs)
    if name == "ResNet50":
        import torchvision

        return torchvision.models.resnet50(**kwargs)
    raise UserError(
        f"classifier openood/{name} is not known, expected openood/ResNet18_32x32 or "
        "openood/ResNet50"
    )
